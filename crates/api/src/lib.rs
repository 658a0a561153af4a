//! The JSON that clients send and receive: one type per message, used by both sides.
//!
//! A request type has a function that checks it and returns domain types: `TaskRequest::validate`, `KeyOrder::key`,
//! `QuoteQuery::spec`. The checks are here because each violation names a field as the client wrote it. An answer type has a
//! function that builds it from domain types: `TaskView::from`, `BatchView::of`, `PoolView::of`, [`quote()`]. Decisions are in
//! `spotreel-domain`, the formats of the logs in `spotreel-bus`.
//!
//! Some domain types are part of these messages without a copy here, so they keep serde's derive (and utoipa's, for the HTTP
//! API) in `spotreel-domain`. A new, renamed or removed field of one of them changes the API:
//!
//! - words that logs and configuration write the same way: ids, `Owner`, `PoolName`, `Model`, `Priority`, `Quality`, `Usd`,
//!   `DrainMode`, `Lifecycle` and other enums without data;
//! - records that are shown field by field, where a copy would be a second place for each field: `TaskSpec`, `Attempt`,
//!   `Artifact`, `Failure`; what [`spotreel_domain::allocation`] makes; `Stop`, `Blocked`, `Receipt`, `Residency`, `InstanceState`; trigger's `Decision` and `View`.

mod alarm;
mod batch;
mod error;
mod event;
mod filters;
mod fleet;
mod key;
mod order;
mod queue;
mod quote;
mod receipt;
mod request;
pub mod schema;
mod search;
mod task;
mod webhook;
mod whole;
mod why;

pub use alarm::{AlarmView, AlarmsQuery, AlarmsView};
pub use batch::{BatchView, BatchesQuery, InstanceCounts};
pub use error::{ApiError, ErrorCode, ErrorReply, ProblemBody, Violation};
pub use event::{CloudEvent, Rejection};
pub use fleet::{BatchRef, FleetQuery, FleetView, InstanceView, PoolView, WorkerView};
pub use key::{KeyCreated, KeyList, KeyOrder, KeyRef, KeyView, USUAL_TASKS_PER_MINUTE};
pub use order::{
    DrainOrder, DrainReply, DrainRequest, DrainState, Drained, HoldOrder, Ordered, ResumeOrder,
    RunOrder, StopOrder,
};
pub use queue::{OwnerTasks, QueueLength, QueueView};
pub use quote::{MAX_QUOTED_TASKS, Offer, PriceOf, Quote, QuoteQuery, quote};
pub use receipt::{
    BatchReceipt, CostsQuery, MAX_COST_DAYS, MAX_RECEIPT_TASKS, ReceiptQuery, TaskCost,
    TaskInBatch, TaskReceipt, USUAL_COST_DAYS, USUAL_RECEIPT_TASKS,
};
pub use request::{
    CROP_WARNING_PERCENT, ImageSource, LORA_STRENGTH, LoraRequest, MAX_IDEMPOTENCY_KEY,
    MAX_LABEL_CHARS, MAX_LABELS, MAX_LORAS, MAX_VIOLATIONS, TaskRequest, Valid, crop_percent,
    size_names, size_of_picture,
};
pub use search::{
    FoundTask, MAX_SEARCH_LIMIT, MAX_SEARCH_TEXT, SearchPage, SearchQuery, TaskSearch,
    USUAL_SEARCH_LIMIT,
};
pub use task::{
    Accepted, AcceptedMany, CancelledMany, ListPage, ListQuery, MAX_LIST_LIMIT, MAX_TASKS_PER_CALL,
    PreviewImage, Progress, RenderProgress, SubmitResult, TaskList, TaskRef, TaskView, Uploaded,
    Video,
};
pub use webhook::{
    CallbackSecret, DeliveriesPage, DeliveriesQuery, DeliveryView, DisableOrder,
    MAX_DELIVERIES_PER_PAGE, RecoverOrder, ResendOrder, SecretOrder, WebhookCreated, WebhookList,
    WebhookNotice, WebhookOrder, WebhookRef, WebhookView, rule_of as rule_of_target,
};
pub use why::{PoolWhy, Why, WhyQuery};

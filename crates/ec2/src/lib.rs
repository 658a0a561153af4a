//! EC2 capacity: launches that can be sent again, listings that are whole or an error, endings one by one.
//!
//! The only crate that compiles `aws-sdk-ec2`. It speaks the words of [`spotreel_domain::fleet::cloud`] and decides
//! nothing: whoever calls keeps the intents, this crate sends them exactly as they were frozen and says of every error
//! what may have happened in spite of it.
//!
//! - [`Ec2::launch`] is ONE try. Its caller replays an unclear launch with the same request, and so with the same
//!   token; a second try in here could hide that the first one may have launched.
//! - Everything else may be asked twice and is: the SDK's three tries, each within ten seconds.
//! - Every list is followed to its end. One that is longer than its bound is an error, never a shorter list.
//! - Deadlines go by the cloud's clock: [`Listing::cloud_now`] is the `Date` of the answer itself.

mod classify;
mod connect;
mod console;
mod end;
mod error;
mod launch;
mod list;
mod places;
mod prices;
mod quota;
mod template;
mod user_data;

pub use classify::classify;
pub use connect::{Ec2, Ec2Config, Keys};
pub use error::CallError;
pub use launch::LaunchError;
pub use list::Listing;
pub use places::{Subnet, SubnetFilter, TypeDescription};
pub use prices::PriceChange;
pub use template::{TemplateSpec, TemplateVersion};
pub use user_data::{UserData, UserDataError};

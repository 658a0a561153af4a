//! Model packs: the weights of a model as one directory, `pack.json` naming every file with its hash.
//!
//! A pack is used as it was made or not at all. Weights are safetensors; nothing in a pack can hold code. In the bucket a
//! pack is a pointer, `models/<model>/pack.json`, to blobs named by their hash, so that packs share what they have in
//! common and a new version never disturbs a pull of the old one; what no pointer names any more, a prune removes. On disk a
//! file has its final name only when it is whole and its hash was right; `.verified` remembers that, so that a restart need
//! not read 70 GB again.

mod error;
mod index;
mod landing;
mod lock;
mod lora;
mod make;
mod marker;
mod numbers;
mod plan;
mod progress;
mod prune;
mod pull;
mod push;
mod remote;
mod tensors;
mod verify;
mod window;
mod write;

pub use error::PackError;
pub use index::{Compute, FORMAT, Fast, FastSteps, INDEX, Index, Pack, PackFile, Scheduler};
pub use lora::{
    AddLora, AddedLora, LORA_INDEX, LoraError, LoraFiles, LoraIndex, LoraRemoteError, LoraReport,
    MAX_LORA_BYTES, PublishedLora, Sizes, StoredLora, check_lora, transformer_of,
};
pub use make::{FastRecipe, FastWeights, MakeError, MergeError, PackRecipe, make};
pub use progress::Progress;
pub use prune::{PruneError, Unused};
pub use pull::{PullError, PullOptions};
pub use push::{PushError, Pushed};
pub use remote::{PREFIX, Published, Remote, RemoteError};
pub use tensors::{Head, read_head};
pub use verify::verify;

//! What a launch may be made of.

/// No launch here is larger; what AWS allows, a machine that runs processes cannot bear.
pub(super) const MOST_INSTANCES: u32 = 1000;

/// One override of a fleet, as it was asked for, with what it means here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    pub template_id: String,
    pub version: u64,
    pub kind: String,
    pub zone: String,
    pub zone_id: String,
    pub subnet_id: String,
    pub image_id: String,
    /// Micro-dollars an hour for one unit; none: the on-demand price.
    pub max_price: Option<i64>,
    pub weight: f64,
    pub priority: Option<String>,
    /// The template tags requests for Spot instances.
    pub tags_requests: bool,
}

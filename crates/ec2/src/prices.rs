//! Spot prices and placement scores of capacity pools.

use std::collections::HashMap;

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::InstanceType;
use jiff::Timestamp;
use spotreel_domain::fleet::cloud::Place;
use spotreel_domain::money::Usd;

use crate::list::{endless, timestamp};
use crate::{CallError, Ec2};

/// Both names of a Linux machine: which one a price is filed under depends on how old the account is.
const PRODUCTS: [&str; 2] = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"];
/// The most that EC2 puts on a page.
const PAGE: i32 = 1000;
/// 90 days of hourly changes of 40 places fit.
const MAX_PAGES: usize = 100;

/// From `at` on, the place cost `price` an hour. The last one is in force however old it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceChange {
    pub place: Place,
    pub price: Usd,
    pub at: Timestamp,
}

/// How likely a request is to be met: 1 is poor, 10 is good. A hint, never a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementScore {
    pub zone: String,
    pub score: u32,
}

impl Ec2 {
    /// Changes of the Spot price since then, oldest first within a place, each place led by the price that was in
    /// force at `since`: with `since` = now just what counts. None: all that EC2 remembers, 90 days.
    pub async fn spot_prices(
        &self,
        kinds: &[String],
        since: Option<Timestamp>,
    ) -> Result<Vec<PriceChange>, CallError> {
        const OPERATION: &str = "DescribeSpotPriceHistory";
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let kinds: Vec<_> = kinds
            .iter()
            .map(|k| InstanceType::from(k.as_str()))
            .collect();
        let since = since.map(|at| DateTime::from_secs(at.as_second()));
        let mut changes = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .describe_spot_price_history()
                .set_instance_types(Some(kinds.clone()))
                .set_product_descriptions(Some(PRODUCTS.map(str::to_owned).into()))
                .set_start_time(since)
                .max_results(PAGE)
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            for price in page.spot_price_history() {
                let change = change(price);
                if change.is_none() {
                    tracing::warn!(?price, "Spot price cannot be parsed; ignored");
                }
                changes.extend(change);
            }
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                // The same change under both products is one change.
                changes.sort_by(|a, b| (&a.place, a.at).cmp(&(&b.place, b.at)));
                changes.dedup();
                return Ok(changes);
            }
        }
        Err(endless(OPERATION))
    }

    /// Zones by how likely each has `units` of these types, best first. EC2 limits how many different questions a
    /// day may ask, and fewer than three types always score low.
    pub async fn placement_scores(
        &self,
        kinds: &[String],
        units: u32,
    ) -> Result<Vec<PlacementScore>, CallError> {
        let zones = self.client.describe_availability_zones().send().await;
        let zones = zones.map_err(|error| CallError::new("DescribeAvailabilityZones", error))?;
        let zones = zones.availability_zones().iter();
        let names: HashMap<_, _> = zones
            .filter_map(|z| Some((z.zone_id()?, z.zone_name()?)))
            .collect();
        let answer = self
            .client
            .get_spot_placement_scores()
            .set_instance_types(Some(kinds.to_vec()))
            .target_capacity(i32::try_from(units).unwrap_or(i32::MAX))
            .single_availability_zone(true)
            .region_names(&self.region)
            .send()
            .await
            .map_err(|error| CallError::new("GetSpotPlacementScores", error))?;
        let scores = answer.spot_placement_scores().iter();
        let mut scores: Vec<_> = scores
            .filter_map(|score| {
                let zone = names.get(score.availability_zone_id()?)?;
                Some(PlacementScore {
                    zone: (*zone).to_owned(),
                    score: u32::try_from(score.score()?).ok()?,
                })
            })
            .collect();
        scores.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.zone.cmp(&b.zone)));
        Ok(scores)
    }
}

fn change(price: &aws_sdk_ec2::types::SpotPrice) -> Option<PriceChange> {
    Some(PriceChange {
        place: Place {
            kind: price.instance_type()?.as_str().to_owned(),
            zone: price.availability_zone()?.to_owned(),
        },
        price: price.spot_price()?.parse().ok()?,
        at: timestamp(price.timestamp()?)?,
    })
}

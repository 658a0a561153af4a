//! Spot prices of capacity pools.

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

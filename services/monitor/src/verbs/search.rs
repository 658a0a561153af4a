//! `spotreel.search`.

use std::sync::Arc;

use spotreel_api::{ApiError, ErrorCode, SearchPage, SearchQuery};
use spotreel_bus::reply::refuse;

use crate::verbs::Requests;

pub(crate) async fn search(
    requests: Arc<Requests>,
    query: SearchQuery,
) -> Result<SearchPage, ApiError> {
    match &requests.search {
        Some(search) => search.page(&query).await,
        None => {
            let message = "searches are switched off: set search.enabled of monitor";
            Err(refuse(ErrorCode::Unavailable, message))
        }
    }
}

//! Lists instance types, their zones, and subnets.

use aws_sdk_ec2::types::{GpuInfo, InstanceTypeInfo, LocationType, MemoryInfo, VCpuInfo};
use spotreel_domain::fleet::cloud::Place;

use crate::list::{endless, filter};
use crate::{CallError, Ec2};

/// What EC2 allows on a page of types; the other lists take it too.
const PAGE: i32 = 100;
/// 10,000 rows: a region has a thousand types and a dozen zones.
const MAX_PAGES: usize = 100;

/// An instance type and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeDescription {
    pub kind: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    /// 0 also where a type has a fraction of one.
    pub gpus: u32,
    /// `A10G`.
    pub gpu_name: Option<String>,
    /// Of one of them.
    pub gpu_memory_mib: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    pub id: String,
    pub zone: String,
    pub vpc: String,
    pub free_addresses: u32,
}

/// Which subnets are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubnetFilter {
    /// All of these; one that is not there is an error.
    Ids(Vec<String>),
    Tag {
        key: String,
        value: String,
    },
    /// The default one of each zone.
    Default,
}

impl Ec2 {
    /// In which zones each of these types can be had at all. A type that is not there is left out.
    pub async fn offerings(&self, kinds: &[String]) -> Result<Vec<Place>, CallError> {
        const OPERATION: &str = "DescribeInstanceTypeOfferings";
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let mut places = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .describe_instance_type_offerings()
                .location_type(LocationType::AvailabilityZone)
                .filters(filter("instance-type", kinds.iter().map(String::as_str)))
                .max_results(PAGE)
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            for offering in page.instance_type_offerings() {
                let kind = offering
                    .instance_type()
                    .map(|kind| kind.as_str().to_owned());
                let zone = offering.location().map(str::to_owned);
                places.extend(kind.zip(zone).map(|(kind, zone)| Place { kind, zone }));
            }
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                places.sort();
                return Ok(places);
            }
        }
        Err(endless(OPERATION))
    }

    /// What is in these types. A type that does not exist is left out.
    pub async fn kinds(&self, kinds: &[String]) -> Result<Vec<TypeDescription>, CallError> {
        const OPERATION: &str = "DescribeInstanceTypes";
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            // By filter: a list of names is refused as a whole for one that does not exist.
            let page = self
                .client
                .describe_instance_types()
                .filters(filter("instance-type", kinds.iter().map(String::as_str)))
                .max_results(PAGE)
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            found.extend(page.instance_types().iter().filter_map(kind));
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                found.sort_by(|a, b| a.kind.cmp(&b.kind));
                return Ok(found);
            }
        }
        Err(endless(OPERATION))
    }

    pub async fn subnets(&self, which: &SubnetFilter) -> Result<Vec<Subnet>, CallError> {
        const OPERATION: &str = "DescribeSubnets";
        let mut found = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let call = self.client.describe_subnets();
            // EC2 refuses a page size beside ids.
            let call = match which {
                SubnetFilter::Ids(ids) if ids.is_empty() => return Ok(Vec::new()),
                SubnetFilter::Ids(ids) => call.set_subnet_ids(Some(ids.clone())),
                SubnetFilter::Tag { key, value } => {
                    let filter = filter(&format!("tag:{key}"), [value.as_str()]);
                    call.filters(filter).max_results(PAGE)
                }
                SubnetFilter::Default => call
                    .filters(filter("default-for-az", ["true"]))
                    .max_results(PAGE),
            };
            let page = call
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            for subnet in page.subnets() {
                let free = subnet.available_ip_address_count().unwrap_or_default();
                let (Some(id), Some(zone)) = (subnet.subnet_id(), subnet.availability_zone())
                else {
                    return Err(CallError::malformed(
                        OPERATION,
                        "a subnet without id or zone",
                    ));
                };
                found.push(Subnet {
                    id: id.to_owned(),
                    zone: zone.to_owned(),
                    vpc: subnet.vpc_id().unwrap_or_default().to_owned(),
                    free_addresses: u32::try_from(free).unwrap_or_default(),
                });
            }
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                found.sort_by(|a, b| (&a.zone, &a.id).cmp(&(&b.zone, &b.id)));
                return Ok(found);
            }
        }
        Err(endless(OPERATION))
    }
}

fn kind(info: &InstanceTypeInfo) -> Option<TypeDescription> {
    let whole = |number: Option<i32>| {
        number
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_default()
    };
    let gpus = info.gpu_info().map(GpuInfo::gpus).unwrap_or_default();
    let first = gpus.first();
    let memory = info.memory_info().and_then(MemoryInfo::size_in_mib);
    let gpu_memory = first.and_then(|gpu| gpu.memory_info()?.size_in_mib());
    Some(TypeDescription {
        kind: info.instance_type()?.as_str().to_owned(),
        vcpus: whole(info.v_cpu_info().and_then(VCpuInfo::default_v_cpus)),
        memory_mib: memory
            .and_then(|mib| u64::try_from(mib).ok())
            .unwrap_or_default(),
        gpus: gpus.iter().map(|gpu| whole(gpu.count())).sum(),
        gpu_name: first.and_then(|gpu| gpu.name()).map(str::to_owned),
        gpu_memory_mib: u64::from(whole(gpu_memory)),
    })
}

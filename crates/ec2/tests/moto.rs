//! The happy path against moto, which nobody here wrote: that what we send is what EC2's API takes, and that we read
//! what it answers. `make test-moto` runs it.
//!
//! Only what moto does: it knows no client tokens, no capacity, no prices of its own (every one is from 2006), no
//! limits of price, and no quotas.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;

use spotreel_domain::fleet::cloud::{
    CloudState, LaunchRequest, Lifecycle, Override, Place, SeenInstance, Template, tag,
};
use spotreel_domain::money::Usd;
use spotreel_ec2::{CallError, Ec2, Ec2Config, Keys, SubnetFilter, TemplateSpec};

#[tokio::test]
#[ignore = "needs moto: make test-moto"]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn the_happy_path_against_moto() {
    let url = std::env::var("SPOTREEL_MOTO_URL").expect("tests/py/moto_server.sh sets it");
    let config = Ec2Config {
        region: "us-east-2".to_owned(),
        endpoint_url: Some(url),
    };
    let keys = Keys {
        access_key: "any".to_owned(),
        secret_key: "thing".to_owned(),
    };
    let ec2 = Ec2::connect_with_keys(&config, keys).await;
    let kind = "g5.xlarge".to_owned();
    let kinds = std::slice::from_ref(&kind);

    let found = ec2.kinds(kinds).await.unwrap();
    assert_eq!((found[0].vcpus, found[0].gpus), (4, 1));
    let places = ec2.offerings(kinds).await.unwrap();
    let subnets = ec2.subnets(&SubnetFilter::Default).await.unwrap();
    let prices = ec2.spot_prices(kinds, None).await.unwrap();
    assert!(
        prices
            .iter()
            .any(|change| change.price == Usd::from_micros(10)),
        "{prices:?}"
    );
    assert_eq!(ec2.quota(Lifecycle::Spot).await, Ok(None));

    let template = template(&ec2).await;
    let overrides = subnets.iter().filter_map(|subnet| {
        let place = Place {
            kind: kind.clone(),
            zone: subnet.zone.clone(),
        };
        places.contains(&place).then(|| Override {
            place,
            subnet: subnet.id.clone(),
            max_price: Some(Usd::from_cents(45)),
        })
    });
    let env = format!("moto-{}", std::process::id());
    let request = LaunchRequest {
        client_token: format!("spotreel-{env}"),
        template,
        lifecycle: Lifecycle::Spot,
        units: 3,
        overrides: overrides.collect(),
        tags: BTreeMap::from(
            [
                (tag::MANAGED_BY, tag::MANAGED_BY_FLEET),
                (tag::ENV, &env),
                (tag::BATCH, "g5-1"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        ),
    };
    assert!(!request.overrides.is_empty(), "{places:?} {subnets:?}");
    let answer = ec2.launch(&request).await.unwrap();
    assert_eq!((answer.instances.len(), answer.errors.len()), (3, 0));

    let listing = ec2.list(&env).await.unwrap();
    assert_eq!(listing.instances.len(), 3);
    for seen in &listing.instances {
        assert_eq!(
            (seen.kind.as_str(), seen.lifecycle),
            (kind.as_str(), Lifecycle::Spot)
        );
        assert!(
            request
                .tags
                .iter()
                .all(|(key, value)| seen.tag(key) == Some(value))
        );
    }

    let mut ids: Vec<_> = answer.instances.iter().map(|i| i.id.clone()).collect();
    ec2.tag(&ids, &[("spotreel:ready", "yes")]).await.unwrap();
    ids.push("i-0123456789abcdef0".to_owned());
    let results = ec2.terminate(&ids).await;
    assert!(
        results[3].1.as_ref().is_err_and(CallError::is_not_found),
        "{results:?}"
    );
    assert!(
        results[..3].iter().all(|(_, result)| result.is_ok()),
        "{results:?}"
    );
    let listing = ec2.list(&env).await.unwrap();
    assert!(
        listing
            .instances
            .iter()
            .all(|i| i.state == CloudState::Terminated && i.tag("spotreel:ready") == Some("yes"))
    );

    // A fleet of its own: moto refuses to delete one of which nothing runs any more.
    let another = LaunchRequest {
        client_token: format!("spotreel-{env}-2"),
        units: 1,
        ..request
    };
    let answer = ec2.launch(&another).await.unwrap();
    let deleted = ec2.delete_fleets(&[answer.fleet]).await;
    assert!(
        deleted.iter().all(|(_, result)| result.is_ok()),
        "{deleted:?}"
    );
    let listing = ec2.list(&env).await.unwrap();
    assert_eq!(listing.instances.len(), 4);
    assert!(!listing.instances.iter().any(SeenInstance::is_alive));
}

/// One template, one version a content.
async fn template(ec2: &Ec2) -> Template {
    let mut spec = TemplateSpec::new("spotreel-moto", "ami-12c6146b", "#!/bin/bash\n");
    spec.spot_only = true;
    spec.tags
        .insert("Project".to_owned(), "spotreel".to_owned());
    let first = ec2.ensure_template(&spec).await.unwrap();
    assert_eq!(ec2.ensure_template(&spec).await.unwrap(), first);
    spec.user_data.push_str("true\n");
    let second = ec2.ensure_template(&spec).await.unwrap();
    assert_eq!(
        second,
        Template {
            version: first.version + 1,
            ..first
        }
    );
    let made = ec2.template_version(&second).await.unwrap().unwrap();
    assert!(made.ends_on_shutdown && made.metadata_tags && made.tokens_required);
    assert_eq!(made.spot_request_tags, spec.tags);
    assert_eq!(made.volume_gib, spec.volume_gib);
    let none = Template {
        version: 99,
        ..second.clone()
    };
    assert_eq!(ec2.template_version(&none).await.unwrap(), None);
    assert_eq!(ec2.template("nowhere").await.unwrap(), None);
    second
}

use super::*;

fn traced(name: &str, text: &str) -> Result<Market, MarketError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Market::new(MarketConfig {
        trace: Some(path),
        ..drawn(1)
    })
}

fn refused(name: &str, text: &str) -> String {
    match traced(name, text).unwrap_err() {
        MarketError::Trace(error) => error.to_string(),
    }
}

fn instance(id: &str, zone: &str, since: u64) -> Running {
    Running {
        instance_id: id.to_owned(),
        kind: KIND.to_owned(),
        zone: zone.to_owned(),
        since: after(since),
        max_price: None,
    }
}

const CSV: &str = "at_seconds,type,zone,price,capacity,interrupt
60, g5.xlarge, us-east-2a, 0.41, ,
0,g5.xlarge,us-east-2a,0.38,4,

90,*,*,,,notice 2
100.5,g5.xlarge,us-east-2a,,1,silent all
";

const JSON: &str = r#"{"at_seconds": 60, "type": "g5.xlarge", "zone": "us-east-2a", "price": 0.41}
{"at_seconds": 0, "type": "g5.xlarge", "zone": "us-east-2a", "price": 0.38, "capacity": 4}
{"at_seconds": 90, "type": "*", "zone": "*", "interrupt": "notice 2"}
{"at_seconds": 100.5, "type": "g5.xlarge", "zone": "us-east-2a", "capacity": 1, "interrupt": "silent all"}
"#;

#[test]
fn both_forms_say_the_same() {
    for (name, text) in [("a.csv", CSV), ("a.jsonl", JSON)] {
        let mut market = traced(name, text).unwrap();
        assert_eq!(market.price(KIND, ZONE, after(0)), Some(380_000));
        assert_eq!(market.price(KIND, ZONE, after(60)), Some(410_000));
        assert_eq!(market.price(KIND, ZONE, start() - HISTORY), Some(380_000));
        assert_eq!(market.capacity(KIND, ZONE, after(0)), 4);
        assert_eq!(
            market.history(KIND, ZONE, after(10), after(99)),
            [(start() - HISTORY, 380_000), (after(60), 410_000)]
        );

        let fleet = [
            instance("i-young", ZONE, 30),
            instance("i-old", ZONE, 10),
            instance("i-there", "us-east-2b", 20),
        ];
        let taken = market.reclaims(&fleet, after(80), after(99));
        let ids: Vec<_> = taken.iter().map(|one| one.instance_id.as_str()).collect();
        assert_eq!(ids, ["i-old", "i-there"]);
        let lead = Duration::from_secs(120);
        assert_eq!(taken[0].kind, ReclaimKind::Notice { lead });
        assert_eq!((taken[0].reason, taken[0].at), (Reason::Script, after(90)));
        let taken = market.reclaims(&fleet, after(99), after(200));
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].kind, ReclaimKind::Silent);
    }
}

#[test]
fn a_bad_line_is_named_with_its_rule() {
    let header = "at_seconds,type,zone,price,capacity,interrupt\n";
    for (row, rule) in [
        (
            "0,g5.xlarge,us-east-2a,0.4",
            "4 columns where the header has 6",
        ),
        (
            "x,g5.xlarge,us-east-2a,0.4,,",
            "at_seconds is not a number: \"x\"",
        ),
        (
            "-1,g5.xlarge,us-east-2a,0.4,,",
            "at_seconds must be from 0 to 90 days",
        ),
        (
            "0,g9.huge,us-east-2a,0.4,,",
            "no pool of g9.huge in us-east-2a",
        ),
        ("0,*,us-east-2a,0.4,,", "no pool of * in us-east-2a"),
        (
            "0,g5.xlarge,us-east-2a,-1,,",
            "price must be from 0 to 10000",
        ),
        ("0,g5.xlarge,us-east-2a,,1.5,", "u32"),
        (
            "0,g5.xlarge,us-east-2a,,,",
            "neither price nor capacity nor interrupt",
        ),
        (
            "0,g5.xlarge,us-east-2a,,,maybe",
            "notice, rebalance or silent",
        ),
        (
            "0,g5.xlarge,us-east-2a,,,notice few",
            "a number or all, not \"few\"",
        ),
        ("0,g5.xlarge,us-east-2a,,,notice 1 2", "a word too many"),
        (",g5.xlarge,us-east-2a,1,,", "at_seconds"),
    ] {
        let said = refused("bad.csv", &format!("{header}\n{row}\n"));
        assert!(said.contains("bad.csv, line 3: "), "{said}");
        assert!(said.contains(rule), "{said}");
    }
    let said = refused(
        "bad.csv",
        "at_seconds,type,zone,cost\n0,g5.xlarge,us-east-2a,1\n",
    );
    assert!(said.contains("unknown field `cost`"), "{said}");
    let said = refused("bad.jsonl", "{}\n");
    assert!(
        said.contains("line 1: ") && said.contains("missing field"),
        "{said}"
    );
}

#[test]
fn a_trace_that_is_not_there_is_named() {
    let error = Market::new(MarketConfig {
        trace: Some("/nowhere/at.csv".into()),
        ..calm()
    });
    assert!(error.unwrap_err().to_string().contains("trace"));
}

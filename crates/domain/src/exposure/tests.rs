use proptest::prelude::*;

use super::*;

fn service(created: i64, namespace: &str, name: &str, port: u16) -> Found {
    Found {
        created_at: Timestamp::from_second(created).unwrap(),
        source: Source::NodePort {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        part: None,
        port,
    }
}

fn named(selection: &Selection) -> Vec<&str> {
    let all = selection.exposures.iter();
    all.map(|exposure| exposure.name.as_str()).collect()
}

fn declared(name: &str, port: u16) -> Exposure {
    Exposure {
        name: name.parse().unwrap(),
        source: Source::Lab,
        port,
        node: None,
    }
}

#[test]
fn services_have_their_own_name_then_that_of_their_namespace_then_their_port() {
    let found = vec![
        service(3, "shop", "web", 30_002),
        service(1, "default", "web", 30_001),
        service(2, "default", "web-shop", 30_003),
        service(4, "default", "1st", 30_004),
        service(5, "default", &"x".repeat(60), 30_005),
    ];
    let selection = select(&[], found);
    assert_eq!(
        named(&selection),
        ["web", "web-shop", "port-30002", "port-30004", "port-30005"]
    );
    assert_eq!(selection.left_out, 0);
}

#[test]
fn ports_of_one_service_and_hosts_of_one_ingress_are_told_apart() {
    let part = |part: &str, port| Found {
        part: Some(part.to_owned()),
        ..service(1, "default", "web", port)
    };
    let ingress = |host: Option<&str>, part: Option<&str>| Found {
        created_at: Timestamp::UNIX_EPOCH,
        source: Source::Ingress {
            namespace: "shop".to_owned(),
            name: "front.end".to_owned(),
            host: host.map(str::to_owned),
        },
        part: part.map(str::to_owned),
        port: INGRESS_PORT,
    };
    let found = vec![
        part("http", 30_001),
        part("admin", 30_002),
        ingress(Some("shop.example.test"), None),
    ];
    let selection = select(&[declared("notes", 8080)], found);
    assert_eq!(
        named(&selection),
        ["notes", "front-end", "web-admin", "web-http"]
    );
    assert_eq!(selection.exposures[1].host(), Some("shop.example.test"));
    let invalid = ["*.example.test", "a b", "x\r\ny", "", "UPPER"];
    let found = invalid.iter().map(|host| ingress(Some(host), None));
    let selection = select(&[], found.collect());
    assert_eq!(selection.exposures, []);
    assert_eq!(selection.left_out, 5);
}

#[test]
fn the_last_report_counts_for_a_while() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    let lab = [declared("notes", 8080)];
    let good = Report::success(select(&lab, vec![service(1, "default", "web", 30_001)]));
    let first = Report::failure(Some(good.clone()), &lab, "refused".to_owned(), now);
    assert_eq!(first.selection, good.selection);
    let late = now + KEPT - SignedDuration::from_secs(1);
    let second = Report::failure(Some(first), &lab, "silent".to_owned(), late);
    assert_eq!(second.selection, good.selection);
    let trouble = second.trouble.clone().unwrap();
    assert_eq!((trouble.since, trouble.reason.as_str()), (now, "silent"));
    let third = Report::failure(Some(second), &lab, "silent".to_owned(), now + KEPT);
    assert_eq!(named(&third.selection), ["notes"]);
    let never = Report::failure(None, &lab, "refused".to_owned(), now);
    assert_eq!(named(&never.selection), ["notes"]);
}

#[test]
fn requests_are_told_apart_by_their_host() {
    let local = ExposureDomain::localhost();
    let own: ExposureDomain = "apps.example.org".parse().unwrap();
    let web = Place {
        environment: "abcdefghjk".parse().unwrap(),
        name: "web-admin".parse().unwrap(),
    };
    assert_eq!(local.host(&web), "web-admin-abcdefghjk.localhost");
    for (domain, host, to) in [
        (&local, "127.0.0.1:7890", Some(Addressee::Platform)),
        (&local, "localhost:7890", Some(Addressee::Platform)),
        (&local, "[::1]:7890", Some(Addressee::Platform)),
        (&local, "evil-localhost", Some(Addressee::Platform)),
        (&local, "", Some(Addressee::Platform)),
        (&local, "web-admin-abcdefghjk.localhost:7890", None),
        (&local, "WEB-admin-ABCDEFGHJK.localhost.:7890", None),
        (&local, "web.localhost", Some(Addressee::Nobody)),
        (
            &local,
            "a.web-admin-abcdefghjk.localhost",
            Some(Addressee::Nobody),
        ),
        (&local, ".localhost", Some(Addressee::Nobody)),
        (&own, "web-admin-abcdefghjk.apps.example.org", None),
        (&own, "apps.example.org", Some(Addressee::Nobody)),
        (&own, "labs.example.org", Some(Addressee::Platform)),
        (&own, "x.localhost", Some(Addressee::Platform)),
    ] {
        let to = to.unwrap_or_else(|| Addressee::Exposure(web.clone()));
        assert_eq!(domain.addressee(host), to, "{host}");
    }
    for bad in [
        "",
        ".",
        "a..b",
        "*.example.org",
        "Example.org",
        "a:80",
        "127.0.0.1",
        "a/b",
    ] {
        assert!(bad.parse::<ExposureDomain>().is_err(), "{bad}");
    }
}

#[test]
fn shares_are_limited_in_number_and_time() {
    let now = Timestamp::UNIX_EPOCH;
    assert_eq!(
        share_until(0, 60, now),
        Ok(now + SignedDuration::from_hours(1))
    );
    assert_eq!(share_until(0, 0, now), Err(ShareDenial::Lifetime));
    assert_eq!(share_until(0, u32::MAX, now), Err(ShareDenial::Lifetime));
    assert_eq!(share_until(MAX_SHARES, 60, now), Err(ShareDenial::TooMany));
}

fn any_found() -> impl Strategy<Value = Found> {
    let text = prop_oneof!["[a-z]{1,3}", "[a-z][a-z0-9-]{0,70}", "\\PC{0,300}"];
    (0_i64..9, text.clone(), text, any::<u16>(), any::<bool>()).prop_map(
        |(created, namespace, name, port, many)| Found {
            part: many.then(|| port.to_string()),
            ..service(created, &namespace, &name, port)
        },
    )
}

proptest! {
    #[test]
    fn a_selection_is_bounded_and_its_names_are_unique_labels(
        found in proptest::collection::vec(any_found(), 0..80),
    ) {
        let all = { let mut f = found.clone(); f.sort(); f.dedup(); f.len() };
        let selection = select(&[declared("web", 80)], found);
        prop_assert!(selection.exposures.len() <= MAX_EXPOSURES);
        prop_assert_eq!(all, selection.exposures.len() - 1 + selection.left_out as usize);
        let unique: BTreeSet<_> = named(&selection).into_iter().map(str::to_owned).collect();
        prop_assert_eq!(unique.len(), selection.exposures.len());
        let environment: EnvironmentId = "abcdefghjk".parse().unwrap();
        for exposure in &selection.exposures {
            prop_assert!(exposure.port != 0);
            let place = Place { environment: environment.clone(), name: exposure.name.clone() };
            let host = ExposureDomain::localhost().host(&place);
            prop_assert!(host.split('.').all(|label| label.len() <= 63));
            let to = ExposureDomain::localhost().addressee(&host);
            prop_assert_eq!(to, Addressee::Exposure(place));
        }
    }

    #[test]
    fn a_newer_service_changes_nothing_about_older_ones(
        found in proptest::collection::vec(any_found(), 0..40),
        name in "[a-z]{1,3}",
    ) {
        let before = select(&[], found.clone());
        let newer = service(10, "default", &name, 31_000);
        let after = select(&[], found.into_iter().chain([newer]).collect());
        prop_assert!(after.exposures.starts_with(&before.exposures));
    }

    #[test]
    fn no_host_below_the_domain_is_the_platforms(label in "[ -~]{0,60}") {
        let host = format!("{label}.localhost");
        prop_assert_ne!(ExposureDomain::localhost().addressee(&host), Addressee::Platform);
    }
}

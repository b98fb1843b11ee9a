use std::net::SocketAddr;

use axum::body::Body;
use governor::clock::FakeRelativeClock;

use super::*;
use crate::config;

fn rates(max_keys: usize) -> (Rates<FakeRelativeClock>, FakeRelativeClock) {
    let clock = FakeRelativeClock::default();
    let config = Config {
        rates: config::Rates {
            person_per_minute: 5,
            stranger_per_minute: 4,
            wrong_per_minute: 3,
            password_per_minute: 10,
            code_per_minute: 3,
        },
        ..Config::default()
    };
    (Rates::with(&config, max_keys, &clock), clock)
}

fn origin(n: u32) -> Origin {
    Origin(IpAddr::V4(Ipv4Addr::from_bits(n)))
}

#[test]
fn each_credential_has_its_own_budget_that_refills() {
    let (rates, clock) = rates(100);
    for who in ["a", "b"] {
        for _ in 0..5 {
            rates.right(who.to_owned()).unwrap();
        }
        let wait = rates.right(who.to_owned()).unwrap_err();
        assert!(wait.0 > Duration::from_secs(11) && wait.0 <= Duration::from_secs(12));
    }
    clock.advance(Duration::from_secs(12));
    rates.right("a".to_owned()).unwrap();
    rates.right("a".to_owned()).unwrap_err();
    clock.advance(Duration::from_secs(60));
    for _ in 0..5 {
        rates.right("a".to_owned()).unwrap();
    }
}

#[test]
fn guessing_blocks_passwords_from_the_same_address() {
    let (rates, clock) = rates(100);
    for _ in 0..3 {
        rates.may_guess(origin(1)).unwrap();
        rates.wrong_password(origin(1)).unwrap();
    }
    rates.wrong_password(origin(1)).unwrap_err();
    let wait = rates.may_guess(origin(1)).unwrap_err();
    assert!(wait.0 <= Duration::from_secs(20));
    rates.may_guess(origin(2)).unwrap();
    clock.advance(Duration::from_secs(21));
    rates.may_guess(origin(1)).unwrap();
}

#[test]
fn memory_is_bounded_and_new_keys_beyond_the_maximum_share_a_budget() {
    let (rates, clock) = rates(50);
    for n in 0..10_000 {
        let _ = rates.stranger(origin(n));
        let _ = rates.right(format!("{n}"));
        for _ in 0..4 {
            let _ = rates.wrong(origin(n));
            let _ = rates.wrong_password(origin(n));
        }
    }
    let len = |b: &Budgets<Origin, _>| b.limiter.as_ref().unwrap().len();
    assert!(len(&rates.strangers) <= 51 && len(&rates.wrong) <= 51);
    assert!(rates.people.limiter.as_ref().unwrap().len() <= 51);
    assert!(lock(&rates.guesses.held).len() <= 50);
    rates.stranger(origin(99_999)).unwrap_err();
    // Full budgets are forgotten, which makes room.
    clock.advance(Duration::from_secs(120));
    rates.stranger(origin(99_999)).unwrap();
    assert_eq!(len(&rates.strangers), 1);
    rates.tidy();
    assert!(lock(&rates.guesses.held).is_empty());
}

#[test]
fn zero_means_no_limit() {
    let clock = FakeRelativeClock::default();
    let config = Config {
        rates: config::Rates::unlimited(),
        ..Config::default()
    };
    let rates = Rates::with(&config, 10, &clock);
    for _ in 0..10_000 {
        rates.stranger(origin(1)).unwrap();
        rates.wrong(origin(1)).unwrap();
        rates.right("a".to_owned()).unwrap();
    }
}

#[test]
fn only_a_trusted_proxy_may_set_the_origin() {
    let config = Config {
        trusted_proxies: vec!["127.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
        ..Config::default()
    };
    for (peer, forwarded, from) in [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        (
            "127.0.0.1",
            "6.6.6.6, 198.51.100.1, 10.0.0.2",
            "198.51.100.1",
        ),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("::ffff:203.0.113.9", "", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::"),
    ] {
        let mut request = Request::builder()
            .header("x-forwarded-for", forwarded)
            .body(Body::empty())
            .unwrap();
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        request.extensions_mut().insert(ConnectInfo(Peer(peer)));
        assert_eq!(
            Origin::of(&request, &config),
            Origin(from.parse().unwrap()),
            "{peer} {forwarded}"
        );
    }
}

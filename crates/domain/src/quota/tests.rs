use proptest::prelude::*;

use super::*;

/// 18 November 2026, 10:00 UTC, plus these seconds.
fn at(seconds: i64) -> Timestamp {
    let base: Timestamp = "2026-11-18T10:00:00Z".parse().unwrap();
    base + SignedDuration::from_secs(seconds)
}

fn account(quota: Quota, usage: Usage) -> Account {
    Account {
        holder: Holder::Person,
        quota,
        usage,
    }
}

#[test]
fn a_denial_says_which_limit_is_used_up_and_when_it_frees() {
    let used = Usage {
        environments: 2,
        nodes: 4,
        starts: vec![at(-900), at(-2400), at(-600), at(-4000)],
        ran: SignedDuration::from_mins(40 * 60 + 59),
    };
    let most = |quota: Quota| account(quota, used.clone());
    for (quota, request, text) in [
        (
            Quota {
                environments: Some(2),
                ..Quota::default()
            },
            Request::start(1),
            "2 of your 2 environments are open; end one of them first",
        ),
        (
            Quota {
                starts: Some(3),
                ..Quota::default()
            },
            Request::start(1),
            "3 of your 3 starts within an hour are used; again in 20 min, at 10:20 UTC",
        ),
        (
            Quota {
                hours: Some(40),
                ..Quota::default()
            },
            Request::start(1),
            "40 of your 40 hours this month are used; again on 1 December",
        ),
        (
            Quota {
                nodes: Some(5),
                ..Quota::default()
            },
            Request::start(3),
            "4 of your 5 nodes are in use, and this needs 3; end one of them first",
        ),
        (
            Quota {
                nodes: Some(4),
                ..Quota::default()
            },
            Request::NODE,
            "4 of your 4 nodes are in use, and this needs 1; end one of them first",
        ),
        (
            Quota {
                nodes: Some(2),
                ..Quota::default()
            },
            Request::start(3),
            "4 of your 2 nodes are in use, and this needs 3; ask an operator for a higher limit",
        ),
    ] {
        let denied = check(&[most(quota)], request, at(0)).unwrap_err();
        assert_eq!(denied.to_string(), text);
    }
    let group = Account {
        holder: Holder::Group("Monday".to_owned()),
        ..most(Quota {
            environments: Some(2),
            ..Quota::default()
        })
    };
    let denied = check(&[group], Request::start(1), at(0)).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "2 of the group Monday's 2 environments are open; try again when one has ended"
    );
}

#[test]
fn months_are_calendar_months() {
    let (from, to) = month(at(0));
    assert_eq!(from.to_string(), "2026-11-01T00:00:00Z");
    assert_eq!(to.to_string(), "2026-12-01T00:00:00Z");
    assert_eq!(month(to), (to, "2027-01-01T00:00:00Z".parse().unwrap()));
}

#[test]
fn overrides_replace_the_default_or_lift_it() {
    let default = Quota {
        environments: Some(5),
        nodes: Some(8),
        hours: Some(20),
        ..Quota::default()
    };
    let own = Overrides {
        environments: Some(2),
        nodes: Some(0),
        starts: Some(3),
        hours: None,
    };
    let quota = default.with(own);
    assert_eq!(
        Resource::ALL.map(|r| quota.of(r)),
        [Some(2), Some(3), Some(20), None]
    );
}

prop_compose! {
    fn usage()(environments in 0_u32..9, nodes in 0_u32..20, starts in proptest::collection::vec(-5000_i64..0, 0..12), minutes in 0_i64..4000) -> Usage {
        Usage { environments, nodes, starts: starts.into_iter().map(at).collect(), ran: SignedDuration::from_mins(minutes) }
    }
}

prop_compose! {
    fn quota()(e in proptest::option::of(1_u32..9), s in proptest::option::of(1_u32..9), h in proptest::option::of(1_u32..60), n in proptest::option::of(1_u32..20)) -> Quota {
        Quota { environments: e, starts: s, hours: h, nodes: n }
    }
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![(1_u32..6).prop_map(Request::start), Just(Request::NODE)]
}

proptest! {
    #[test]
    fn what_is_admitted_stays_within_the_limits(q in quota(), u in usage(), r in request()) {
        if check(&[account(q, u.clone())], r, at(0)).is_ok() {
            let recent = u.starts.iter().filter(|t| **t > at(-3600)).count();
            prop_assert!(q.environments.is_none_or(|most| r.environments == 0 || u.environments + r.environments <= most));
            prop_assert!(q.starts.is_none_or(|most| r.starts == 0 || recent < most as usize));
            prop_assert!(q.nodes.is_none_or(|most| u.nodes + r.nodes <= most));
            prop_assert!(q.hours.is_none_or(|most| r.starts == 0 || u.ran < SignedDuration::from_hours(most.into())));
        }
    }

    #[test]
    fn a_denial_names_a_limit_that_would_be_exceeded(q in quota(), u in usage(), r in request()) {
        if let Err(denied) = check(&[account(q, u)], r, at(0)) {
            let Standing { resource, used, most, .. } = denied.standing;
            prop_assert_eq!(q.of(resource), Some(most));
            prop_assert!(used + denied.needs > most);
            prop_assert_eq!(denied.frees == Frees::Never, denied.needs > most);
        }
    }

    /// At the named time the same limit admits the request, and not a moment before.
    #[test]
    fn a_time_is_kept(most in 1_u32..9, u in usage()) {
        let only = Quota { starts: Some(most), ..Quota::default() };
        let all = [account(only, u)];
        if let Err(denied) = check(&all, Request::start(1), at(0)) && let Frees::At(when, wait) = denied.frees {
            prop_assert_eq!(at(0) + wait, when);
            prop_assert!(check(&all, Request::start(1), when).is_ok());
            prop_assert!(check(&all, Request::start(1), when - SignedDuration::from_secs(1)).is_err());
        }
    }

    #[test]
    fn a_higher_limit_never_denies(q in quota(), u in usage(), r in request()) {
        let raise = |most: Option<u32>| most.map(|most| most + 1);
        let raised = Quota { environments: raise(q.environments), starts: raise(q.starts), hours: raise(q.hours), nodes: raise(q.nodes) };
        if check(&[account(q, u.clone())], r, at(0)).is_ok() {
            prop_assert!(check(&[account(raised, u.clone())], r, at(0)).is_ok());
        }
        prop_assert!(check(&[account(Quota::default(), u)], r, at(0)).is_ok());
    }

    /// Each further account can only deny more, and whatever is denied was shown as used up or nearly so.
    #[test]
    fn all_accounts_count(a in quota(), b in quota(), u in usage(), r in request()) {
        let (one, two) = (account(a, u.clone()), account(b, u));
        let both = check(&[one.clone(), two.clone()], r, at(0));
        let each = check(std::slice::from_ref(&one), r, at(0)).is_ok() && check(std::slice::from_ref(&two), r, at(0)).is_ok();
        prop_assert_eq!(both.is_ok(), each);
        if let Err(denied) = both {
            let shown = standings(&[one, two], at(0));
            prop_assert!(shown.contains(&denied.standing));
        }
    }
}

#[test]
fn a_limit_of_one_reads_well() {
    let standing = |resource, used, most| Standing {
        holder: Holder::Person,
        resource,
        used,
        most,
        frees: None,
    };
    let denial = |resource, used, most, needs, frees| Exceeded {
        standing: standing(resource, used, most),
        needs,
        frees,
    };
    let again = Frees::At(at(1200), SignedDuration::from_mins(20));
    for (denied, text) in [
        (
            denial(Resource::Environments, 1, 1, 1, Frees::WithAnEnd),
            "your limit is one environment, which is open; end it first",
        ),
        (
            denial(Resource::Environments, 2, 1, 1, Frees::WithAnEnd),
            "2 environments are open and your limit is one; end one of them first",
        ),
        (
            denial(Resource::Starts, 1, 1, 1, again),
            "your limit is one start within an hour, which is used; again in 20 min, at 10:20 UTC",
        ),
        (
            denial(Resource::Nodes, 1, 1, 1, Frees::WithAnEnd),
            "your limit is one node, which is in use, and this needs 1; end it first",
        ),
        (
            denial(Resource::Nodes, 0, 1, 3, Frees::Never),
            "your limit is one node, and this needs 3; ask an operator for a higher limit",
        ),
        (
            denial(Resource::Nodes, 1, 2, 2, Frees::WithAnEnd),
            "1 of your 2 nodes is in use, and this needs 2; end it first",
        ),
    ] {
        assert_eq!(denied.to_string(), text);
    }
    let group = Standing {
        holder: Holder::Group("Monday".to_owned()),
        ..standing(Resource::Hours, 1, 1)
    };
    let text = "the group Monday's limit is one hour this month, which is used";
    assert_eq!(group.to_string(), text);
}

//! The list by itself; what happens at the same time is in `tests/loom_cancel.rs`.

use super::*;

fn running() -> (StateWord, Cancels<&'static str>) {
    let w = StateWord::new();
    w.renew_running();
    (w, Cancels::default())
}

#[test]
fn the_first_reason_counts_until_it_is_delivered() {
    let (w, mut c) = running();
    assert_eq!(c.ask(&w, 0, Some("first")), (Cancel::Set, None));
    assert_eq!(
        c.ask(&w, 0, Some("second")),
        (Cancel::Already, Some("second"))
    );
    assert!(w.take_cancel());
    assert_eq!(c.deliver(&w), Some((0, Some("first"))));
    assert!(!w.take_cancel());
    assert_eq!(c.ask(&w, 0, None), (Cancel::Set, None));
    assert!(w.take_cancel());
    assert_eq!(c.deliver(&w), Some((0, None)));
}

/// Mutation: `deliver` does not say pending again.
#[test]
fn several_are_delivered_one_after_the_other() {
    let (w, mut c) = running();
    for origin in [7, 0, 3] {
        assert_eq!(c.ask(&w, origin, None), (Cancel::Set, None));
    }
    for origin in [7, 0, 3] {
        assert!(w.take_cancel());
        assert_eq!(c.deliver(&w), Some((origin, None)));
    }
    assert!(!w.take_cancel());
}

/// Mutation: `withdraw` always takes the word's pending back, or never.
#[test]
fn a_scope_that_ends_takes_its_own_back() {
    let (w, mut c) = running();
    let _ = c.ask(&w, 5, Some("scope"));
    let _ = c.ask(&w, 0, Some("outside"));
    assert_eq!(c.withdraw(&w, 5), Some(Some("scope")));
    assert_eq!(c.withdraw(&w, 5), None);
    assert!(w.cancel_pending());
    assert_eq!(c.withdraw(&w, 0), Some(Some("outside")));
    assert!(!w.cancel_pending());
}

#[test]
fn what_was_delivered_can_be_asked_for_again_in_front() {
    let (w, mut c) = running();
    let _ = c.ask(&w, 5, None);
    let _ = c.ask_again(&w, 0, Some("outer"));
    assert!(w.take_cancel());
    assert_eq!(c.deliver(&w), Some((0, Some("outer"))));
    assert!(w.cancel_pending());
}

/// Mutation: `enter` does not look at the shield.
#[test]
fn a_shield_holds_back_what_is_outside_of_it() {
    let (w, mut c) = running();
    let _ = c.ask(&w, 3, None);
    assert_eq!(c.set_shield(&w, 4), 0);
    assert!(!w.cancel_pending());
    assert_eq!(c.ask(&w, 0, None), (Cancel::Set, None));
    assert!(!w.cancel_pending());
    let t = w.arm(true).expect("nothing is due");
    assert_eq!(c.ask(&w, 6, None), (Cancel::Set, None));
    assert_eq!(w.verdict(), Some(super::super::state::Verdict::Cancel));
    assert_eq!(
        w.fire(t, super::super::state::Verdict::Ready),
        super::super::state::Fire::Lost
    );
    w.delivered();
    assert_eq!(c.deliver(&w), Some((6, None)));
    assert!(!w.cancel_pending());
    // A shield inside the shield holds back scopes between them.
    let _ = c.ask(&w, 6, None);
    assert_eq!(c.set_shield(&w, 7), 4);
    assert!(!w.cancel_pending());
    assert_eq!(c.set_shield(&w, 4), 7);
    assert!(w.take_cancel());
    assert_eq!(c.deliver(&w), Some((6, None)));
    assert_eq!(c.set_shield(&w, 0), 4);
    for origin in [3, 0] {
        assert!(w.take_cancel());
        assert_eq!(c.deliver(&w), Some((origin, None)));
    }
}

#[test]
fn too_late() {
    let (w, mut c) = running();
    let _ = w.finish();
    assert_eq!(c.ask(&w, 0, Some("late")), (Cancel::Ended, Some("late")));
    assert!(c.first_reason().is_none());
}

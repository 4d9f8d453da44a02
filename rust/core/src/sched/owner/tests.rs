//! The word by itself; what happens at the same time is in `tests/loom_owner.rs`.

use super::*;

#[test]
fn only_a_body_is_taken_from() {
    let w = OwnerWord::new();
    assert!(w.is_idle());
    assert_eq!(w.in_body(), None);
    let t = w.acquire();
    assert!(!w.is_idle());
    assert!(!w.retake(t), "inside the scheduler");
    w.leave(t);
    assert_eq!(w.in_body(), Some(t));
    assert!(w.retake(t));
    assert!(w.is_idle());
    assert!(!w.retake(t), "once");
}

#[test]
fn a_lost_p_stays_lost() {
    let w = OwnerWord::new();
    let mine = w.acquire();
    w.leave(mine);
    assert!(w.retake(mine));
    assert!(!w.enter(mine), "nobody has it");
    let next = w.acquire();
    assert!(!w.enter(mine), "the next one is inside the scheduler");
    w.leave(next);
    assert!(!w.enter(mine), "the next one is in a body too");
    assert!(!w.retake(mine), "what sysmon saw is over");
    assert!(w.enter(next));
    w.release(next);
    assert!(w.is_idle());
}

#[test]
fn acquisitions_have_numbers_of_their_own() {
    let w = OwnerWord::new();
    let mut seen = Vec::new();
    for _ in 0..100 {
        let t = w.acquire();
        assert!(!seen.contains(&t));
        seen.push(t);
        w.leave(t);
        assert!(w.enter(t));
        w.release(t);
    }
}

//! The word by itself; what happens at the same time is in `tests/loom_owner.rs`.

use super::*;

#[test]
fn only_a_body_is_taken_from() {
    let (w, a) = (OwnerWord::new(), Seat::new());
    assert!(w.is_idle());
    assert_eq!(w.in_body(&a), None);
    let t = w.acquire(&a);
    assert!(!w.is_idle());
    assert!(!w.retake(t, &a), "inside the scheduler");
    w.leave(t, &a);
    assert_eq!(w.in_body(&a), Some(t));
    assert!(w.retake(t, &a));
    assert!(w.is_idle());
    assert!(!w.retake(t, &a), "once");
}

#[test]
fn a_lost_p_stays_lost() {
    let (w, a, b) = (OwnerWord::new(), Seat::new(), Seat::new());
    let mine = w.acquire(&a);
    w.leave(mine, &a);
    assert!(w.retake(mine, &a));
    assert!(!w.enter(mine, &a), "nobody has it");
    let next = w.acquire(&b);
    assert!(!w.enter(mine, &a), "the next one is inside the scheduler");
    w.leave(next, &b);
    assert!(!w.enter(mine, &a), "the next one is in a body too");
    assert!(!w.retake(mine, &a), "what sysmon saw is over");
    assert!(w.enter(next, &b));
    w.release(next);
    assert!(w.is_idle());
}

#[test]
fn acquisitions_have_numbers_of_their_own() {
    let (w, a) = (OwnerWord::new(), Seat::new());
    let mut seen = Vec::new();
    for _ in 0..100 {
        let t = w.acquire(&a);
        assert!(!seen.contains(&t));
        seen.push(t);
        w.leave(t, &a);
        assert!(w.enter(t, &a));
        w.release(t);
    }
}

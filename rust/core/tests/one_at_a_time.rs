//! `prim::Kept` where attached threads run one at a time: a process of its own, since that is said once for all.
#![cfg(not(loom))]

use gorun_core::prim::{Kept, one_at_a_time};

/// It guards without a lock: the value is reached, another taker is refused while it is held and let in afterwards, and
/// one who takes it while it is held is stopped instead of let in. Mutation: `lock` does not look at `held`, or the guard
/// does not give it back.
#[test]
fn it_notes_that_it_is_held() {
    one_at_a_time();
    let kept = Kept::new(1);
    {
        let mut held = kept.lock();
        *held += 1;
        assert!(kept.try_lock().is_none());
        let second = std::panic::AssertUnwindSafe(|| drop(kept.lock()));
        assert!(std::panic::catch_unwind(second).is_err());
    }
    assert_eq!(kept.try_lock().map(|v| *v), Some(2));
    assert_eq!(*kept.lock(), 2);
}

//! The word by itself, and against a model with a field for everything. What happens at the same time is in
//! `tests/loom_state.rs`.

use super::*;
use crate::testing::Rng;

fn running() -> StateWord {
    let w = StateWord::new();
    w.renew_running();
    w
}

#[test]
fn a_wait_ends_by_the_first_who_fires() {
    let w = running();
    let t = w.arm(true).unwrap();
    assert_eq!(w.park(), Park::Parked);
    assert_eq!(w.phase(), Phase::Parked);
    assert_eq!(w.fire(t, Verdict::Timeout), Fire::Wake);
    assert_eq!(w.phase(), Phase::Running);
    assert_eq!(w.fire(t, Verdict::Ready), Fire::Lost);
    assert_eq!(w.cancel(), Cancel::Set, "too late for this wait");
    assert!(w.start(), "and due now");
    assert_eq!(w.verdict(), Some(Verdict::Timeout));
    assert!(w.take_cancel());
    assert!(!w.take_cancel());
}

#[test]
fn fired_before_it_parks_it_goes_on() {
    let w = running();
    let t = w.arm(false).unwrap();
    assert_eq!(w.fire(t, Verdict::Ready), Fire::Noted);
    assert_eq!(w.park(), Park::Fired(Verdict::Ready));
    assert_eq!(w.phase(), Phase::Running);
}

#[test]
fn an_old_ticket_does_nothing() {
    let w = running();
    let old = w.arm(true).unwrap();
    w.disarm();
    let new = w.arm(true).unwrap();
    assert_eq!(w.fire(old, Verdict::Ready), Fire::Lost);
    w.finish();
    w.renew_running();
    assert_eq!(w.fire(new, Verdict::Ready), Fire::Lost);
    let dormant = w.renew_dormant();
    assert!(!w.revoke(new));
    assert_eq!(w.fire(new, Verdict::Ready), Fire::Lost);
    assert_eq!(w.fire(dormant, Verdict::Timeout), Fire::Wake);
    assert!(!w.revoke(dormant), "it has gone off");
}

/// The end of a number is enough for the wait of now, and says nothing of another. Mutation: `fire_low` fires whatever
/// the ticket.
#[test]
fn the_end_of_a_ticket_names_its_wait() {
    let w = running();
    let old = w.arm(true).unwrap();
    w.disarm();
    let new = w.arm(true).unwrap();
    assert_eq!(w.park(), Park::Parked);
    assert_eq!(w.fire_low(old.low(), Verdict::Timeout), Fire::Lost);
    assert_eq!(w.fire_low(new.low(), Verdict::Timeout), Fire::Wake);
    assert_eq!(w.fire_low(new.low(), Verdict::Timeout), Fire::Lost);
}

#[test]
fn a_pending_cancel_is_delivered_instead_of_waiting_once() {
    let w = running();
    assert_eq!(w.cancel(), Cancel::Set);
    assert!(w.cancel_pending() && w.cancel_asked());
    let t = w.arm(false).expect("this wait cannot be cut");
    assert_eq!(w.park(), Park::Parked);
    assert_eq!(w.cancel(), Cancel::Already);
    assert_eq!(w.fire(t, Verdict::Ready), Fire::Wake);
    assert!(w.start());
    assert_eq!(w.arm(true), Err(CancelNow));
    assert!(!w.cancel_asked());
    assert!(w.arm(true).is_ok());
}

#[test]
fn a_cancel_cuts_a_wait_that_may_be_cut() {
    let w = running();
    w.arm(true).unwrap();
    assert_eq!(w.park(), Park::Parked);
    assert_eq!(w.cancel(), Cancel::Wake);
    assert_eq!(w.cancel(), Cancel::Already);
    assert!(w.cancel_asked() && !w.cancel_pending());
    assert!(!w.start(), "it lies in the verdict");
    assert_eq!(w.verdict(), Some(Verdict::Cancel));
    w.delivered();
    assert!(!w.cancel_asked());
    assert_eq!(w.cancel(), Cancel::Set, "a new one");
}

#[test]
fn a_cancel_of_a_needless_wait_stays_pending() {
    let w = running();
    w.arm(true).unwrap();
    assert_eq!(w.cancel(), Cancel::Set);
    w.disarm();
    assert!(w.cancel_pending());
    assert!(w.take_cancel());
}

#[test]
fn the_end_takes_everything_off() {
    let w = running();
    let t = w.arm(true).unwrap();
    w.disarm();
    assert_eq!(w.cancel(), Cancel::Set);
    assert!(w.finish(), "a cancel was still pending");
    assert_eq!(w.phase(), Phase::Done);
    assert_eq!(w.cancel(), Cancel::Ended);
    assert_eq!(w.fire(t, Verdict::Ready), Fire::Lost);
    w.renew_running();
    assert!(!w.start(), "the next life knows nothing of it");
    assert!(!w.finish());
}

#[test]
fn one_that_yielded_is_running_already() {
    let w = running();
    assert!(!w.start());
    assert_eq!(w.phase(), Phase::Running);
    assert_eq!(w.cancel(), Cancel::Set);
    assert!(w.start());
}

#[test]
fn only_a_parked_goroutine_is_taken_aside() {
    let w = running();
    assert!(!w.inspect());
    let t = w.arm(true).unwrap();
    assert!(!w.inspect(), "it has not parked");
    assert_eq!(w.park(), Park::Parked);
    assert!(w.inspect());
    assert!(!w.inspect(), "by one at a time");
    assert_eq!(w.park(), Park::Parked, "back again");
    assert!(w.inspect());
    assert_eq!(
        w.fire(t, Verdict::Ready),
        Fire::Noted,
        "left to the inspector"
    );
    assert_eq!(w.park(), Park::Fired(Verdict::Ready));

    w.arm(true).unwrap();
    assert_eq!(w.park_held(), Park::Parked);
    assert!(!w.inspect(), "a thread sleeps on it");
    assert_eq!(w.cancel(), Cancel::Wake);
    w.start();
    w.arm(true).unwrap();
    assert_eq!(w.park(), Park::Parked);
    assert!(w.inspect(), "that was the wait before");
}

/// Everything that the word packs, one field each.
#[derive(Clone, Copy, Debug)]
struct Plain {
    phase: Phase,
    armed: bool,
    cut: bool,
    verdict: Option<Verdict>,
    pending: bool,
    held: bool,
    ticket: u64,
}

impl Plain {
    fn end(&mut self, v: Verdict) -> bool {
        (self.armed, self.cut, self.verdict) = (false, false, Some(v));
        let parked = self.phase == Phase::Parked;
        if parked {
            self.phase = Phase::Running;
        }
        parked
    }

    fn deliver(&mut self) -> bool {
        let due = self.pending;
        self.pending &= !due;
        due
    }
}

/// Random walks: the word does what the fields do. Mutation: `TICKET_SHIFT` of 8 (the ticket runs into HELD).
#[test]
fn the_word_is_its_fields() {
    let mut rng = Rng(7);
    for _ in 0..300 {
        let w = running();
        let mut p = Plain {
            phase: Phase::Running,
            armed: false,
            cut: false,
            verdict: None,
            pending: false,
            held: false,
            ticket: 1,
        };
        for _ in 0..300 {
            match rng.below(14) {
                0 | 1 if p.phase == Phase::Running && !p.armed => {
                    let cut = rng.below(2) == 0;
                    let said = w.arm(cut);
                    if cut && p.deliver() {
                        assert_eq!(said, Err(CancelNow));
                    } else {
                        (p.armed, p.cut, p.verdict, p.held) = (true, cut, None, false);
                        p.ticket += 1;
                        assert_eq!(said, Ok(Ticket(p.ticket)));
                    }
                }
                2..=4 if p.phase == Phase::Running && (p.armed || p.verdict.is_some()) => {
                    let held = rng.below(2) == 0;
                    let said = if held { w.park_held() } else { w.park() };
                    if p.armed {
                        (p.phase, p.held) = (Phase::Parked, p.held || held);
                        assert_eq!(said, Park::Parked);
                    } else {
                        assert_eq!(Some(said), p.verdict.map(Park::Fired));
                    }
                }
                5 | 6 => {
                    let ticket = p.ticket - rng.below(2);
                    let v = [Verdict::Ready, Verdict::Timeout][rng.below(2) as usize];
                    let said = w.fire(Ticket(ticket), v);
                    let expect = if ticket != p.ticket || !p.armed {
                        Fire::Lost
                    } else if p.end(v) {
                        Fire::Wake
                    } else {
                        Fire::Noted
                    };
                    assert_eq!(said, expect);
                }
                7 => {
                    let expect = if p.pending || p.verdict == Some(Verdict::Cancel) {
                        Cancel::Already
                    } else if p.armed && p.cut {
                        if p.end(Verdict::Cancel) {
                            Cancel::Wake
                        } else {
                            Cancel::Set
                        }
                    } else {
                        p.pending = true;
                        Cancel::Set
                    };
                    assert_eq!(w.cancel(), expect);
                }
                8 if p.phase == Phase::Running => assert_eq!(w.start(), p.pending),
                9 if p.phase == Phase::Running => {
                    w.disarm();
                    p.pending |= p.verdict == Some(Verdict::Cancel);
                    (p.armed, p.cut, p.verdict) = (false, false, None);
                }
                10 if p.phase == Phase::Running => assert_eq!(w.take_cancel(), p.deliver()),
                11 if p.phase == Phase::Running => assert_eq!(w.uncancel(), p.deliver()),
                12 => {
                    let can = p.phase == Phase::Parked && !p.held;
                    assert_eq!(w.inspect(), can);
                    if can {
                        assert_eq!(w.park(), Park::Parked);
                    }
                }
                13 if p.phase == Phase::Running && !p.armed && p.verdict.is_some() => {
                    w.delivered();
                    p.verdict = None;
                }
                _ => {}
            }
            assert_eq!(w.phase(), p.phase);
            assert_eq!(w.verdict(), p.verdict);
            assert_eq!(w.cancel_pending(), p.pending);
            let cut = !p.armed && p.verdict == Some(Verdict::Cancel);
            assert_eq!(w.cancel_asked(), p.pending || cut);
        }
    }
}

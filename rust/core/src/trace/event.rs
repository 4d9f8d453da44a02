//! The list of events. New ones are added at the end; names are what exporters print.

/// What happened to a goroutine or a P.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Event {
    /// A goroutine was made here.
    Create = 0,
    /// A step of it begins.
    Start = 1,
    /// It gave its P away once.
    Yield = 2,
    /// It waits.
    Park = 3,
    /// It has ended.
    End = 4,
    /// It was stolen from another P.
    Steal = 5,
    /// Its P was given away before a blocking call.
    HandOff = 6,
    /// sysmon took the P away because its M was blocked.
    Retake = 7,
    /// The P went idle.
    Idle = 8,
}

const NAMES: [&str; 9] = [
    "create", "start", "yield", "park", "end", "steal", "handoff", "retake", "idle",
];

impl Event {
    /// The printed name.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    pub(super) fn from_u8(n: u8) -> Option<Self> {
        const ALL: [Event; 9] = [
            Event::Create,
            Event::Start,
            Event::Yield,
            Event::Park,
            Event::End,
            Event::Steal,
            Event::HandOff,
            Event::Retake,
            Event::Idle,
        ];
        ALL.get(n as usize).copied()
    }
}

//! The methods of channels and views. Each method is written once and stands in the tables of the types that have it.

use std::ffi::{CStr, c_int};
use std::time::Duration;

use gorun_core::chan::{Blocked, Place, Side};
use pyo3::ffi::{self, PyObject};

use super::{
    Batch, CHAN, ChanWork, Core, Form, Obj, RECV, SEND, View, closed, core, ends, keep, make, view,
};
use crate::args::{number, parse, string, timeout, whole};
use crate::body::Owned;
use crate::door;
use crate::errors::{self, Res, attached, guard, repr, set, type_error, value_error};
use crate::ops;
use crate::rawtype::{StaticType, fast, getter, getters, methods, noargs, one};
use crate::rt::rt;
use crate::work::{Work, boolean, none};

/// The Chan object behind a method's self (borrowed).
#[inline(always)]
fn chan(o: *mut PyObject) -> *mut PyObject {
    ends(o).map_or(o, |e| e.chan)
}

/// # Safety
/// `o` is a channel or a view.
unsafe fn core_of<'a>(o: *mut PyObject) -> &'a Core {
    // SAFETY: by the caller's promise.
    unsafe { core(chan(o)) }
}

unsafe extern "C" fn new(
    _: *mut ffi::PyTypeObject,
    args: *mut PyObject,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let given = unsafe { crate::args::from_tuple("Chan", "capacity", args, kw)? };
        if given.is_null() {
            return make(0, false);
        }
        let n = whole(given, "capacity")?;
        let Ok(n) = usize::try_from(n) else {
            return Err(value_error(&format!(
                "capacity must be 0 or more, not {}",
                repr(given)
            )));
        };
        make(n, false)
    })
}

unsafe extern "C" fn no_new(
    t: *mut ffi::PyTypeObject,
    _: *mut PyObject,
    _: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: a type.
        let how = if t == RECV.get() {
            "RecvChan: use Chan(...).receiver()"
        } else {
            "SendChan: use Chan(...).sender()"
        };
        Err(type_error(&format!("cannot make a {how}")))
    })
}

/// A value to be sent and a time-out.
///
/// # Safety
/// The arguments are as the interpreter gave them.
#[inline(always)]
unsafe fn send_args(
    name: &str,
    what: &'static str,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> Res<(*mut PyObject, Option<Duration>)> {
    if n == 1 && kw.is_null() {
        // SAFETY: one argument.
        return Ok((unsafe { *args }, None));
    }
    // SAFETY: as the interpreter gave them.
    let [v, t] = unsafe { parse(name, [what, "timeout"], 2, args, n, kw)? };
    if v.is_null() {
        return Err(type_error(&format!("{name}() misses its argument {what}")));
    }
    Ok((v, timeout(t)?))
}

/// A time-out and nothing else.
///
/// # Safety
/// As `send_args`.
#[inline(always)]
unsafe fn only_timeout(
    name: &str,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> Res<Option<Duration>> {
    if n == 0 && kw.is_null() {
        return Ok(None);
    }
    // SAFETY: as the interpreter gave them.
    let [t] = unsafe { parse(name, ["timeout"], 1, args, n, kw)? };
    timeout(t)
}

#[inline(always)]
fn send_work(o: *mut PyObject, v: *mut PyObject) -> Work {
    // SAFETY: attached, a live object.
    ChanWork::work(chan(o), Form::Send, Some(unsafe { Owned::new(v) }))
}

fn many_work(o: *mut PyObject, v: *mut PyObject) -> Res<Work> {
    Ok(ChanWork::work(
        chan(o),
        Form::SendMany(Batch::new(v)?),
        None,
    ))
}

/// A number of values and a time-out.
///
/// # Safety
/// As `send_args`.
unsafe fn how_many(
    name: &str,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> Res<(usize, Option<Duration>)> {
    // SAFETY: as the interpreter gave them.
    let [count, t] = unsafe { parse(name, ["n", "timeout"], 2, args, n, kw)? };
    if count.is_null() {
        return Err(type_error(&format!("{name}() needs a number of values")));
    }
    match usize::try_from(whole(count, "n")?) {
        Ok(n) if n > 0 => Ok((n, timeout(t)?)),
        _ => Err(value_error(&format!(
            "{name}() takes 1 or more values at once, not {}",
            repr(count)
        ))),
    }
}

macro_rules! both {
    ($(#[$doc:meta])* $block:ident, $await:ident: |$o:ident, $args:ident, $n:ident, $kw:ident, $name:ident| $work:expr) => {
        unsafe extern "C" fn $block(
            $o: *mut PyObject,
            $args: *const *mut PyObject,
            $n: ffi::Py_ssize_t,
            $kw: *mut PyObject,
        ) -> *mut PyObject {
            guard(|| {
                let $name = stringify!($block);
                // SAFETY: as the interpreter gave them.
                let (make_work, limit) = unsafe { $work };
                door::perform(&mut make_work(), limit)
            })
        }
        unsafe extern "C" fn $await(
            $o: *mut PyObject,
            $args: *const *mut PyObject,
            $n: ffi::Py_ssize_t,
            $kw: *mut PyObject,
        ) -> *mut PyObject {
            guard(|| {
                let $name = stringify!($await);
                // SAFETY: as the interpreter gave them.
                let (make_work, limit) = unsafe { $work };
                ops::make(make_work, limit)
            })
        }
    };
}

both!(send, send_async: |o, args, n, kw, name| {
    let (v, limit) = send_args(name, "v", args, n, kw)?;
    (move || send_work(o, v), limit)
});
both!(recv, recv_async: |o, args, n, kw, name| {
    (move || ChanWork::work(chan(o), Form::Recv, None), only_timeout(name, args, n, kw)?)
});
both!(recv_ok, recv_ok_async: |o, args, n, kw, name| {
    (move || ChanWork::work(chan(o), Form::RecvOk, None), only_timeout(name, args, n, kw)?)
});
both!(recv_many, recv_many_async: |o, args, n, kw, name| {
    let (count, limit) = how_many(name, args, n, kw)?;
    (move || ChanWork::work(chan(o), Form::RecvMany(count), None), limit)
});
both!(send_many, send_many_async: |o, args, n, kw, name| {
    let (v, limit) = send_args(name, "values", args, n, kw)?;
    let work = many_work(o, v)?;
    (move || work, limit)
});

unsafe extern "C" fn try_send(
    o: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: attached; a channel; the arguments as the interpreter gave them.
        unsafe {
            let v = if n == 1 && kw.is_null() {
                *args
            } else {
                let [v] = parse("try_send", ["v"], 1, args, n, kw)?;
                v
            };
            if v.is_null() {
                return Err(type_error("try_send() needs a value"));
            }
            let mut place = Place::with(Owned::new(v));
            match core_of(o).chan.try_send(rt(), &mut place) {
                Ok(()) => Ok(boolean(true)),
                Err(Blocked::Wait) => Ok(boolean(false)),
                Err(Blocked::Closed) => Err(closed(Side::Send)),
            }
        }
    })
}

unsafe extern "C" fn try_recv(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        let mut place = Place::new();
        // SAFETY: a channel.
        let r = unsafe { core_of(o) }.chan.try_recv(rt(), &mut place);
        match (r, place.value.take()) {
            (Ok(()), Some(v)) => Ok(v.into_ptr()),
            (Err(Blocked::Closed), _) => Err(closed(Side::Recv)),
            _ => Err(set(
                errors::would_block(attached()),
                "nothing to receive now",
            )),
        }
    })
}

unsafe extern "C" fn keep_alive(o: *mut PyObject, what: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter's call on a Chan object; a static.
    unsafe {
        let nothing = what == ffi::Py_None();
        keep(o, if nothing { std::ptr::null_mut() } else { what });
    }
    none()
}

unsafe extern "C" fn close(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: a channel.
        if unsafe { core_of(o) }.chan.close(rt()) {
            Ok(none())
        } else {
            Err(set(
                errors::channel_closed(attached()),
                "close of a closed channel",
            ))
        }
    })
}

unsafe extern "C" fn sender(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached; a channel.
    guard(|| view(&SEND, unsafe { ffi::Py_NewRef(chan(o)) }))
}

unsafe extern "C" fn receiver(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    guard(|| view(&RECV, unsafe { ffi::Py_NewRef(chan(o)) }))
}

unsafe extern "C" fn get_capacity(o: *mut PyObject, _: *mut std::ffi::c_void) -> *mut PyObject {
    guard(|| {
        // SAFETY: a channel.
        let c = unsafe { core_of(o) };
        number(if c.hidden { 0 } else { c.chan.capacity() })
    })
}

unsafe extern "C" fn get_closed(o: *mut PyObject, _: *mut std::ffi::c_void) -> *mut PyObject {
    // SAFETY: a channel.
    guard(|| Ok(boolean(unsafe { core_of(o) }.chan.is_closed())))
}

unsafe extern "C" fn len(o: *mut PyObject) -> ffi::Py_ssize_t {
    // SAFETY: a channel.
    let c = unsafe { core_of(o) };
    if c.hidden {
        0
    } else {
        c.chan.len() as ffi::Py_ssize_t
    }
}

unsafe extern "C" fn truth(_: *mut PyObject) -> c_int {
    1
}

unsafe extern "C" fn next(o: *mut PyObject) -> *mut PyObject {
    let mut over = false;
    let r = guard(|| {
        let pair = door::perform(&mut ChanWork::work(chan(o), Form::RecvOk, None), None)?;
        // SAFETY: attached; a tuple of two.
        unsafe {
            over = ffi::PyTuple_GET_ITEM(pair, 1) == ffi::Py_False();
            let v = ffi::Py_NewRef(ffi::PyTuple_GET_ITEM(pair, 0));
            ffi::Py_DECREF(pair);
            Ok(v)
        }
    });
    if over {
        // SAFETY: None, owned. No error set: the end of the iteration.
        unsafe { ffi::Py_XDECREF(r) };
        return std::ptr::null_mut();
    }
    r
}

unsafe extern "C" fn anext(o: *mut PyObject) -> *mut PyObject {
    guard(|| ops::make(|| ChanWork::work(chan(o), Form::Next, None), None))
}

unsafe extern "C" fn hash(o: *mut PyObject) -> ffi::Py_hash_t {
    (chan(o).addr() >> 4) as ffi::Py_hash_t
}

unsafe extern "C" fn compare(a: *mut PyObject, b: *mut PyObject, how: c_int) -> *mut PyObject {
    guard(|| {
        let (a, b) = (ends(a), ends(b));
        let same = match (a, b) {
            (Some(a), Some(b)) if how == ffi::Py_EQ || how == ffi::Py_NE => a.chan == b.chan,
            // SAFETY: a static.
            _ => return Ok(unsafe { ffi::Py_NewRef(ffi::Py_NotImplemented()) }),
        };
        Ok(boolean(same == (how == ffi::Py_EQ)))
    })
}

unsafe extern "C" fn represent(o: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: a channel.
        let (c, t) = unsafe { (core_of(o), ffi::Py_TYPE(o)) };
        let name = if t == CHAN.get() {
            "Chan"
        } else if t == RECV.get() {
            "RecvChan"
        } else {
            "SendChan"
        };
        let (n, of) = if c.hidden {
            (0, 0)
        } else {
            (c.chan.len(), c.chan.capacity())
        };
        let state = if c.chan.is_closed() { ", closed" } else { "" };
        string(&format!(
            "<gorun.{name} at {:#x}, {n} of {of}{state}>",
            chan(o).addr()
        ))
    })
}

unsafe extern "C" fn class_getitem(cls: *mut PyObject, item: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached, valid objects.
    unsafe { ffi::Py_GenericAlias(cls, item) }
}

unsafe extern "C" fn no_pickle(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        Err(type_error(&format!(
            "cannot pickle {}: a channel lives in one process",
            repr(o)
        )))
    })
}

fn sending() -> Vec<ffi::PyMethodDef> {
    vec![
        fast(c"send", send, c"send($self, v, timeout=None)\n--\n
Send value; wait while the buffer is full (or, without one, until a receiver takes it).

Raises ChannelClosed if the channel is or becomes closed, TimeoutError after timeout seconds. A cancel
point. Go's ch <- v.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> ch.send('a')
>>> ch.send('b', timeout=0)
Traceback (most recent call last):
TimeoutError: the send has timed out
"),
        fast(c"send_async", send_async, c"send_async($self, v, timeout=None)\n--\n\nAs send, awaited."),
        fast(c"try_send", try_send, c"try_send($self, v)\n--\n
Send v if that needs no wait: True if it was sent. Raises ChannelClosed.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> ch.try_send('a'), ch.try_send('b')
(True, False)
"),
        fast(c"send_many", send_many, c"send_many($self, values, timeout=None)\n--\n
Send all values, in order, with as few locks as possible; the number sent.

Cut short, the error (PartialSend, a TimeoutError; ChannelClosed; Cancelled) says in .sent how many were
sent.

>>> import gorun
>>> ch = gorun.Chan(4)
>>> ch.send_many('abc'), ch.recv_many(10)
(3, ['a', 'b', 'c'])
"),
        fast(c"send_many_async", send_many_async, c"send_many_async($self, values, timeout=None)\n--\n\nAs send_many, awaited."),
        noargs(c"close", close, c"close($self, /)\n--\n
Close the channel: no more sends; receivers get what is buffered, then the end. Wakes every waiter.

Raises ChannelClosed if it is closed already. Go's close.

>>> import gorun
>>> ch = gorun.Chan()
>>> ch.close(); ch.closed
True
"),
    ]
}

fn receiving() -> Vec<ffi::PyMethodDef> {
    vec![
        fast(c"recv", recv, c"recv($self, timeout=None)\n--\n
Receive a value, waiting for one if there is none.

Raises ChannelClosed when the channel is closed and drained, TimeoutError after timeout seconds. A
cancel point. Go's <-ch.

>>> import gorun
>>> ch = gorun.Chan()
>>> g = gorun.go(ch.send, 'hello')
>>> ch.recv()
'hello'
"),
        fast(c"recv_async", recv_async, c"recv_async($self, timeout=None)\n--\n\nAs recv, awaited."),
        fast(c"recv_ok", recv_ok, c"recv_ok($self, timeout=None)\n--\n
As recv, but (value, True), or (None, False) when the channel is closed and drained. Go's v, ok := <-ch.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> ch.send('last'); ch.close()
>>> ch.recv_ok(), ch.recv_ok()
(('last', True), (None, False))
"),
        fast(c"recv_ok_async", recv_ok_async, c"recv_ok_async($self, timeout=None)\n--\n\nAs recv_ok, awaited."),
        noargs(c"try_recv", try_recv, c"try_recv($self, /)\n--\n
Receive a value if that needs no wait. Raises WouldBlock, or ChannelClosed.

>>> import gorun
>>> gorun.Chan().try_recv()
Traceback (most recent call last):
gorun.WouldBlock: nothing to receive now
"),
        fast(c"recv_many", recv_many, c"recv_many($self, n, timeout=None)\n--\n
Wait for a value, then take up to n without waiting: a list of 1 to n values. Raises as recv does.

>>> import gorun
>>> ch = gorun.Chan(8)
>>> ch.send_many('abc'), ch.recv_many(2)
(3, ['a', 'b'])
"),
        fast(c"recv_many_async", recv_many_async, c"recv_many_async($self, n, timeout=None)\n--\n\nAs recv_many, awaited."),
    ]
}

fn common() -> Vec<ffi::PyMethodDef> {
    vec![
        ffi::PyMethodDef {
            ml_flags: ffi::METH_O | ffi::METH_CLASS,
            ..one(
                c"__class_getitem__",
                class_getitem,
                c"Chan[int], for type checkers.",
            )
        },
        noargs(c"__reduce__", no_pickle, c"Channels cannot be pickled."),
    ]
}

/// Makes the types. At import.
///
/// # Safety
/// Once, attached.
pub unsafe fn init() -> Res<()> {
    const DOC: &CStr = c"Chan(capacity=0)\n--\n
A channel that buffers up to capacity values, for threads, goroutines and asyncio tasks alike.

First come, first served; a receive takes a value exactly once, whatever times out or is cancelled.
ValueError for a capacity below 0. Go's make(chan T, n).

>>> import gorun
>>> ch = gorun.Chan[int](2)
>>> ch.send(1); ch.send(2); len(ch)
2
>>> ch.close()
>>> list(ch)
[1, 2]
";
    const RECV_DOC: &CStr =
        c"The receiving side of a channel, from Chan.receiver(); equal to its channel. Go's <-chan T.

>>> import gorun
>>> gorun.after(0.001).recv(timeout=10) > 0
True
";
    const SEND_DOC: &CStr =
        c"The sending side of a channel, from Chan.sender(); equal to its channel. Go's chan<- T.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> hasattr(ch.sender(), 'recv')
False
";
    let kinds: [(&StaticType, &'static CStr, &'static CStr, bool, bool); 3] = [
        (&CHAN, c"gorun.Chan", DOC, true, true),
        (&RECV, c"gorun.RecvChan", RECV_DOC, false, true),
        (&SEND, c"gorun.SendChan", SEND_DOC, true, false),
    ];
    for (t, name, doc, sends, receives) in kinds {
        let whole = sends && receives;
        let mut table = common();
        if sends {
            table.extend(sending());
        }
        if receives {
            table.extend(receiving());
        }
        if whole {
            table.push(noargs(
                c"sender",
                sender,
                c"sender($self, /)\n--\n
The view that only sends.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> ch.sender().send('a'), ch.sender() == ch
(None, True)
",
            ));
            table.push(noargs(
                c"receiver",
                receiver,
                c"receiver($self, /)\n--\n
The view that only receives.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> ch.send('a'); ch.receiver().recv()
'a'
",
            ));
            table.push(one(
                c"_keep",
                keep_alive,
                c"_keep($self, what, /)\n--\n\nLets what live as long as this object; None: nothing any more.",
            ));
        }
        let size = if whole {
            size_of::<Obj>()
        } else {
            size_of::<View>()
        };
        // SAFETY: at import; everything set here lives for ever.
        unsafe {
            let numbers = crate::rawtype::forever(std::mem::zeroed::<ffi::PyNumberMethods>());
            (*numbers).nb_bool = Some(truth);
            let sequence = crate::rawtype::forever(std::mem::zeroed::<ffi::PySequenceMethods>());
            (*sequence).sq_length = Some(len);
            let as_async = crate::rawtype::forever(std::mem::zeroed::<ffi::PyAsyncMethods>());
            if receives {
                (*as_async).am_aiter = Some(ffi::PyObject_SelfIter);
                (*as_async).am_anext = Some(anext);
            }
            t.ready(name, doc, size, |t| {
                t.tp_new = Some(if whole { new } else { no_new });
                t.tp_dealloc = Some(if whole {
                    super::dealloc
                } else {
                    super::view_dealloc
                });
                t.tp_traverse = Some(if whole {
                    super::traverse
                } else {
                    super::view_traverse
                });
                t.tp_clear = whole.then_some(super::clear as ffi::inquiry);
                t.tp_weaklistoffset = if whole {
                    std::mem::offset_of!(Obj, weakrefs)
                } else {
                    std::mem::offset_of!(View, weakrefs)
                } as ffi::Py_ssize_t;
                t.tp_hash = Some(hash);
                t.tp_richcompare = Some(compare);
                t.tp_repr = Some(represent);
                t.tp_as_number = numbers;
                t.tp_as_sequence = sequence;
                t.tp_as_async = as_async;
                if receives {
                    t.tp_iter = Some(ffi::PyObject_SelfIter);
                    t.tp_iternext = Some(next);
                }
                t.tp_getset = getters(vec![
                    getter(c"capacity", get_capacity, c"How many values it buffers."),
                    getter(c"closed", get_closed, c"True once closed."),
                ]);
                t.tp_methods = methods(table);
            })?;
        }
    }
    Ok(())
}

// gobench is the Go side of gorun's benchmarks: one binary, one function per row.
//
//	gobench ROW N   runs one row once and prints its JSON line
//	gobench         reads "hello" and "run ROW N" lines from stdin and answers each
//	                with one JSON line: the protocol of benches/harness/worker.py
//
// GOMAXPROCS comes from the environment; nothing else is tuned.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// sample is what one run of a row answers. Value is set by the rows whose result
// is not a time per operation (bytes, lateness, CPU); count is checked by the harness.
type sample struct {
	NS    int64    `json:"ns"`
	Count int      `json:"count"`
	Value *float64 `json:"value,omitempty"`
}

// rows names every row; the key is the `go` field of a row in benches/rows/*.py.
var rows = map[string]func(n int) sample{
	"spawn":          spawn,
	"spawn2":         spawn2,
	"gosched":        gosched,
	"sleep":          sleep,
	"timer":          timer,
	"memory":         memory,
	"idle":           idle,
	"functions":      functions,
	"sleepers":       sleepers,
	"handoff":        handoff,
	"handoff-parked": handoffParked,
	"chan":           moved(0, 1, free),
	"chan128":        moved(128, 1, free),
	"chan128x4":      moved(128, 4, free),
	"ring":           ring,
	"select":         selects,
	"fanout":         fanout,
	"thread-chan":    moved(0, 1, runtime.LockOSThread),
	"thread-chan128": moved(128, 1, runtime.LockOSThread),
	"mutex":          mutex,
	"mutex-held":     mutexHeld,
	"mutex-thread":   mutexThread,
	"context":        contexts,
}

// timed runs body and reports how long it took; count is the checked counter.
func timed(body func() (count int)) sample {
	start := time.Now()
	count := body()
	return sample{NS: time.Since(start).Nanoseconds(), Count: count}
}

// measured is timed with a result of its own kind.
func measured(body func() (count int, value float64)) sample {
	start := time.Now()
	count, value := body()
	return sample{NS: time.Since(start).Nanoseconds(), Count: count, Value: &value}
}

// must stops the process when a row caught itself measuring something wrong.
func must(ok bool, format string, args ...any) {
	if !ok {
		fmt.Fprintf(os.Stderr, "gobench: "+format+"\n", args...)
		os.Exit(1)
	}
}

func run(row, number string) sample {
	body, known := rows[row]
	must(known, "no row %q", row)
	n, err := strconv.Atoi(number)
	must(err == nil && n > 0, "bad n %q", number)
	runtime.GC() // as testing.B does: the garbage of the last sample is not billed to this one
	return body(n)
}

func main() {
	out := json.NewEncoder(os.Stdout)
	if len(os.Args) == 3 {
		must(out.Encode(run(os.Args[1], os.Args[2])) == nil, "cannot write")
		return
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var answer any
		switch words := strings.Fields(lines.Text()); {
		case len(words) == 1 && words[0] == "hello":
			answer = map[string]any{"version": runtime.Version(), "procs": runtime.GOMAXPROCS(0)}
		case len(words) == 3 && words[0] == "run":
			answer = run(words[1], words[2])
		default:
			must(false, "cannot read %q", lines.Text())
		}
		must(out.Encode(answer) == nil, "cannot write")
	}
}

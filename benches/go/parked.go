package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// park starts n goroutines that wait on a channel for ever and returns how many
// of them came that far.
func park(n int) int {
	var count atomic.Int64
	never := make(chan struct{})
	for range n {
		go func() {
			count.Add(1)
			<-never
		}()
	}
	for count.Load() < int64(n) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // the last ones step from the counter to the channel
	return int(count.Load())
}

// memory: resident bytes per parked goroutine, in a process of its own.
func memory(n int) sample {
	return measured(func() (int, float64) {
		before := resident()
		count := park(n)
		return count, float64(resident()-before) / float64(n)
	})
}

func resident() int {
	data, err := os.ReadFile("/proc/self/statm")
	must(err == nil, "%v", err)
	var size, pages int
	_, err = fmt.Sscan(string(data), &size, &pages)
	must(err == nil, "%v", err)
	return pages * os.Getpagesize()
}

// idle: CPU that the process uses with n parked goroutines, in percent of a core,
// over 5 s at the full n of 100k (less for fewer).
func idle(n int) sample {
	return measured(func() (int, float64) {
		count := park(n)
		time.Sleep(time.Second)
		start, cpu := time.Now(), cpuTime()
		time.Sleep(time.Duration(n) * 50 * time.Microsecond)
		return count, 100 * float64(cpuTime()-cpu) / float64(time.Since(start))
	})
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil, "getrusage")
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

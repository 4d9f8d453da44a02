package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// block holds the thread for 50 ms in a system call, as Python's time.sleep does;
// time.Sleep would only park the goroutine.
func block() {
	for left := syscall.NsecToTimespec(int64(50 * time.Millisecond)); ; {
		if err := syscall.Nanosleep(&left, &left); err != syscall.EINTR {
			must(err == nil, "nanosleep: %v", err)
			return
		}
	}
}

// functions: n goroutines with a result each, taken in order.
func functions(n int) sample {
	return timed(func() int {
		results := make([]chan int, n)
		for i := range results {
			result := make(chan int, 1)
			results[i] = result
			go func() { result <- 1 }()
		}
		count := 0
		for _, result := range results {
			count += <-result
		}
		return count
	})
}

// sleepers: n goroutines that block their thread for 50 ms, all at once.
func sleepers(n int) sample {
	return measured(func() (int, float64) {
		start := time.Now()
		var wg sync.WaitGroup
		var count atomic.Int64
		for range n {
			wg.Add(1)
			go func() {
				defer wg.Done()
				block()
				count.Add(1)
			}()
		}
		wg.Wait()
		return int(count.Load()), float64(time.Since(start)) / float64(time.Millisecond)
	})
}

const blockers = 64

// late runs n ticks of 1 ms beside 64 goroutines that call pause in a loop and
// gives the 99th percentile of the ticks' lateness in ms. A tick is late against
// the schedule, so a stall makes every tick that it covers late.
func late(n int, pause func()) sample {
	return measured(func() (int, float64) {
		var stop atomic.Bool
		var blocks atomic.Int64
		var wg sync.WaitGroup
		for range blockers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					pause()
					blocks.Add(1)
					if stop.Load() {
						return
					}
				}
			}()
		}
		lateness := make(chan []time.Duration)
		go func() {
			var all []time.Duration
			due := time.Now()
			for range n {
				due = due.Add(time.Millisecond)
				time.Sleep(time.Until(due))
				all = append(all, time.Since(due))
			}
			lateness <- all
		}()
		all := <-lateness
		stop.Store(true)
		wg.Wait()
		must(blocks.Load() >= blockers, "handoff: only %d blocks", blocks.Load())
		slices.Sort(all)
		p99 := all[(99*n+99)/100-1]
		return len(all), float64(p99) / float64(time.Millisecond)
	})
}

// handoff: the 64 block their threads in a system call.
func handoff(n int) sample { return late(n, block) }

// handoffParked: the 64 park in time.Sleep, which holds no thread: the ideal.
func handoffParked(n int) sample {
	return late(n, func() { time.Sleep(50 * time.Millisecond) })
}

package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// sleep: n goroutines sleep 1 ms each.
func sleep(n int) sample {
	return timed(func() int {
		var wg sync.WaitGroup
		wg.Add(n)
		for range n {
			go func() {
				time.Sleep(time.Millisecond)
				wg.Done()
			}()
		}
		wg.Wait()
		return n
	})
}

// timer: n timers with a callback, each started and stopped before the next.
func timer(n int) sample {
	return timed(func() int {
		var fired atomic.Int64
		stopped := 0
		for range n {
			if time.AfterFunc(time.Hour, func() { fired.Add(1) }).Stop() {
				stopped++
			}
		}
		must(fired.Load() == 0, "timer: %d fired", fired.Load())
		return stopped
	})
}

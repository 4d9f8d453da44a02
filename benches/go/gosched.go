package main

import (
	"runtime"
	"sync"
)

// gosched: two goroutines yield n/2 times each.
func gosched(n int) sample {
	return timed(func() int {
		var wg sync.WaitGroup
		var counts [2]int
		for i := range counts {
			wg.Add(1)
			go func() {
				defer wg.Done()
				count := 0
				for range n / 2 {
					runtime.Gosched()
					count++
				}
				counts[i] = count
			}()
		}
		wg.Wait()
		return counts[0] + counts[1]
	})
}

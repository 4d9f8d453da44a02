package main

import "sync"

// spawn: one goroutine starts n goroutines that count a WaitGroup down.
func spawn(n int) sample {
	return timed(func() int {
		var wg sync.WaitGroup
		wg.Add(n)
		for range n {
			go func() { wg.Done() }()
		}
		wg.Wait()
		return n // Wait returns at exactly n Dones; one more would panic
	})
}

// spawn2: the same, started by two goroutines, half each, on one WaitGroup.
func spawn2(n int) sample {
	return timed(func() int {
		var wg sync.WaitGroup
		wg.Add(n)
		for half := range 2 {
			go func() {
				for range n/2 + half*(n%2) {
					go func() { wg.Done() }()
				}
			}()
		}
		wg.Wait()
		return n
	})
}

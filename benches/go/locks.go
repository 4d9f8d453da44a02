package main

import (
	"context"
	"runtime"
	"sync"
)

const lockers = 8

// locked starts eight goroutines that do their share of n and waits for them.
func locked(n int, body func(n int)) {
	var wg sync.WaitGroup
	for i := range lockers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			body(share(n, lockers, i))
		}()
	}
	wg.Wait()
}

// mutex: eight goroutines count under one.
func mutex(n int) sample {
	return timed(func() int {
		var mu sync.Mutex
		count := 0
		locked(n, func(n int) {
			for range n {
				mu.Lock()
				count++
				mu.Unlock()
			}
		})
		return count
	})
}

// mutexHeld: the same, and the owner yields inside.
func mutexHeld(n int) sample {
	return timed(func() int {
		var mu sync.Mutex
		count := 0
		locked(n, func(n int) {
			for range n {
				mu.Lock()
				before := count
				runtime.Gosched()
				count = before + 1
				mu.Unlock()
			}
		})
		return count
	})
}

// mutexThread: one goroutine, nobody else.
func mutexThread(n int) sample {
	return timed(func() int {
		var mu sync.Mutex
		count := 0
		for range n {
			mu.Lock()
			count++
			mu.Unlock()
		}
		return count
	})
}

// contexts: a child of the background context, made and cancelled.
func contexts(n int) sample {
	return timed(func() int {
		count := 0
		for range n {
			_, cancel := context.WithCancel(context.Background())
			cancel()
			count++
		}
		return count
	})
}

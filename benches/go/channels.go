package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// share is how many of n values pair number i of several moves.
func share(n, pairs, i int) int {
	if i < n%pairs {
		return n/pairs + 1
	}
	return n / pairs
}

// free leaves a goroutine on whatever thread.
func free() {}

// moved sends n numbers from `pairs` senders to as many receivers on one channel.
// before runs first in each of them.
func moved(capacity, pairs int, before func()) func(n int) sample {
	return func(n int) sample {
		return timed(func() int {
			ch := make(chan int, capacity)
			var wg sync.WaitGroup
			counts := make([]int, pairs)
			for i := range pairs {
				wg.Add(1)
				go func() {
					defer wg.Done()
					before()
					count, last := 0, -1
					for range share(n, pairs, i) {
						last = <-ch
						count++
					}
					must(pairs > 1 || last == n-1, "received %d last", last)
					counts[i] = count
				}()
				go func() {
					before()
					for v := range share(n, pairs, i) {
						ch <- v
					}
				}()
			}
			wg.Wait()
			total := -len(ch)
			for _, count := range counts {
				total += count
			}
			return total
		})
	}
}

const ringSize = 1000

// ring: a number counts down while it goes round; n hops.
func ring(n int) sample {
	return timed(func() int {
		chans := make([]chan int, ringSize)
		for i := range chans {
			chans[i] = make(chan int)
		}
		end := make(chan int)
		for i, into := range chans {
			out := chans[(i+1)%ringSize]
			go func() {
				for left := range into {
					if left == 0 {
						end <- i
						return
					}
					out <- left - 1
				}
			}()
		}
		chans[0] <- n
		at := <-end
		must(at == n%ringSize, "the token ended at %d", at)
		for _, ch := range chans {
			close(ch)
		}
		return n
	})
}

// selects: two senders, a channel each; one receiver selects.
func selects(n int) sample {
	return timed(func() int {
		a, b := make(chan int), make(chan int)
		for i, ch := range []chan int{a, b} {
			go func() {
				for v := range share(n, 2, i) {
					ch <- v
				}
			}()
		}
		var counts [2]int
		for range n {
			select {
			case <-a:
				counts[0]++
			case <-b:
				counts[1]++
			}
		}
		must(counts[0] == share(n, 2, 0), "the cases fired %v times", counts)
		return counts[0] + counts[1]
	})
}

// fanout: microseconds from close until n goroutines that wait have ended.
func fanout(n int) sample {
	return measured(func() (int, float64) {
		ch := make(chan int)
		var begun, left sync.WaitGroup
		var count atomic.Int64
		begun.Add(n)
		left.Add(n)
		for range n {
			go func() {
				begun.Done()
				if _, ok := <-ch; !ok {
					count.Add(1)
					left.Done()
				}
			}()
		}
		begun.Wait()
		time.Sleep(200 * time.Millisecond) // the last ones step from the counter to the channel
		start := time.Now()
		close(ch)
		left.Wait()
		elapsed := time.Since(start)
		return int(count.Load()), float64(elapsed.Nanoseconds()) / 1e3
	})
}

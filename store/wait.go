package store

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
)

// wakeChannels is how many channels all names share. So a process has that many subscriptions at
// most, on one connection, however many wait.
const wakeChannels = 64

// WakeChannel is the channel on which a decision wakes those who wait for name: it publishes
// name there (Tx.Notify, PUBLISH).
func WakeChannel(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return fmt.Sprintf("wake:%d", h.Sum32()%wakeChannels)
}

// Waiter is somebody who waits for a name.
type Waiter struct {
	// C has a value when the name was woken since the last one was taken; wake-ups that come
	// together are one.
	C <-chan struct{}

	wake  chan struct{}
	name  string
	waits *waits
}

// Stop ends the waiting. C is not closed.
func (w *Waiter) Stop() { w.waits.drop(w) }

// Await begins to wait for what decisions publish to WakeChannel(name) after Await has returned,
// without polling and without a connection of its own: ten thousand wait on one subscription. A
// wake-up is a hint and can be lost, as with Subscribe; so look first, then wait on C, and look
// again from time to time anyhow. Errors: as Subscribe.
func (s *Store) Await(ctx context.Context, name string) (*Waiter, error) {
	w := &Waiter{wake: make(chan struct{}, 1), name: name, waits: &s.waits}
	w.C = w.wake
	s.waits.add(w)
	if err := s.waits.listen(ctx, s, WakeChannel(name)); err != nil {
		w.Stop()
		return nil, err
	}
	return w, nil
}

// waits are the waiters of a process.
type waits struct {
	mu       sync.RWMutex
	byName   map[string][]*Waiter
	channels map[string]bool // listened to until the store is closed
}

func (x *waits) add(w *Waiter) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byName == nil {
		x.byName = map[string][]*Waiter{}
	}
	x.byName[w.name] = append(x.byName[w.name], w)
}

func (x *waits) drop(w *Waiter) {
	x.mu.Lock()
	defer x.mu.Unlock()
	left := slices.DeleteFunc(x.byName[w.name], func(other *Waiter) bool { return other == w })
	if x.byName[w.name] = left; len(left) == 0 {
		delete(x.byName, w.name)
	}
}

// listen subscribes to a channel, once. Those who do so at the same time do not wait for each other,
// because an engine that is silent would take its time from each of them in turn; one remains.
func (x *waits) listen(ctx context.Context, s *Store, channel string) error {
	if x.listening(channel) {
		return nil
	}
	cancel, err := s.Subscribe(ctx, channel, x.wake)
	if err != nil {
		return err
	}
	x.mu.Lock()
	again := x.channels[channel]
	if x.channels == nil {
		x.channels = map[string]bool{}
	}
	x.channels[channel] = true
	x.mu.Unlock()
	if again {
		cancel()
	}
	return nil // closing the store cancels it
}

func (x *waits) listening(channel string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.channels[channel]
}

// wake wakes all who wait for a name, and never waits itself.
func (x *waits) wake(name string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, w := range x.byName[name] {
		select {
		case w.wake <- struct{}{}:
		default: // it has one that it has not taken
		}
	}
}

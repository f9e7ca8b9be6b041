package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// The audience are clients that are told things unasked: subscribers, and readers with a cache of their own that the
// engine tells what is not so any more.
const (
	subscribers = 2
	cachers     = 2
	audience    = subscribers + cachers
)

// session is what one subscriber's connection brought.
type session struct {
	since    time.Time // the subscription was confirmed
	messages []message
}

type message struct {
	value string
	at    time.Time
}

// subscriber listens until ctx ends, each time with another node.
func (s *nodeStorm) subscriber(ctx context.Context, which int) {
	for at := which; ctx.Err() == nil; at++ {
		conn, err := s.f.fleet.dial(at)
		if err != nil {
			pauseFor(ctx, 10*time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		s.listen(conn, which)
		stop()
		_ = conn.Close()
	}
}

// quiet is how long a subscriber hears nothing until it looks for another node: some client publishes all the time.
const quiet = 1500 * time.Millisecond

func (s *nodeStorm) listen(conn *respConn, which int) {
	if _, err := conn.do([]string{"SUBSCRIBE", s.prefix + "news"}); err != nil {
		return
	}
	s.mu.Lock()
	s.heard[which] = append(s.heard[which], session{since: time.Now()})
	mine := &s.heard[which][len(s.heard[which])-1] // only this subscriber appends
	s.mu.Unlock()
	for conn.SetReadDeadline(time.Now().Add(quiet)) == nil {
		answer, err := conn.answer()
		if err != nil {
			return
		}
		parts, _ := answer.([]any)
		if len(parts) != 3 {
			return
		}
		value, _ := parts[2].(string)
		s.mu.Lock()
		mine.messages = append(mine.messages, message{value, time.Now()})
		s.ok[stormClients+which] = time.Now()
		s.mu.Unlock()
	}
}

// cacher reads registers and keeps what it read. A value that it kept counts as read at the moment at which it was
// taken from the cache if a PING that was sent later was answered, and nothing before the answer said that the
// value is void: the engine had executed nothing that changed it, and led.
func (s *nodeStorm) cacher(ctx context.Context, which int, rng *rand.Rand) {
	who := stormClients + subscribers + which
	for at := which + 1; ctx.Err() == nil; at++ {
		if conn := s.connect(ctx, at); conn != nil {
			s.readCached(ctx, conn, at, who, rng)
			_ = conn.Close()
		}
	}
}

func (s *nodeStorm) readCached(ctx context.Context, conn *respConn, at, who int, rng *rand.Rand) {
	kept := map[string]any{}
	conn.pushed = func(push []any) {
		if len(push) != 2 || push[0] != "invalidate" {
			return
		}
		keys, all := push[1].([]any)
		if !all {
			clear(kept) // the whole database
		}
		for _, k := range keys {
			key, _ := k.(string)
			delete(kept, key)
		}
	}
	for _, words := range [][]string{{"HELLO", "3"}, {"CLIENT", "TRACKING", "ON"}} {
		if _, err := conn.do(words); err != nil {
			return
		}
	}
	for pauseFor(ctx, time.Duration(2+rng.IntN(8))*time.Millisecond) {
		op := nodeOp{kind: "get", key: fmt.Sprint(s.prefix, "reg", rng.IntN(2)), client: who, call: time.Now()}
		value, have := kept[op.key]
		op.answer, op.cached = value, have
		words := []string{"GET", op.key}
		if have {
			op.ret = time.Now()
			words = []string{"PING"}
		}
		s.talk.RLock()
		if s.shuns(at) {
			s.talk.RUnlock()
			return
		}
		answer, err := conn.do(words)
		s.talk.RUnlock()
		if !have {
			op.answer, op.ret = answer, time.Now()
			kept[op.key] = answer
		}
		if err != nil {
			return
		}
		_, still := kept[op.key]
		s.mu.Lock()
		s.ok[who] = op.call
		if !have || still {
			s.ops = append(s.ops, op)
		}
		s.mu.Unlock()
	}
}

// audible checks what subscribers heard: what somebody published, each once, in an order that the publishers' answers
// allow; and on one connection nothing was left out.
func (s *nodeStorm) audible(where string, f *failover) {
	published := map[string]nodeOp{}
	for _, op := range s.ops {
		if op.kind == "publish" && op.outcome != refused {
			published[op.value] = op
		}
	}
	for which, sessions := range s.heard {
		times := map[string]int{}
		var newest time.Time // call of what was heard so far
		for _, one := range sessions {
			for _, m := range one.messages {
				op, known := published[m.value]
				switch times[m.value]++; {
				case !known:
					f.twice.add("%s: subscriber %d heard %s, which nobody published", where, which, m.value)
					continue
				case times[m.value] == 2:
					f.twice.add("%s: subscriber %d heard %s twice", where, which, m.value)
				}
				if op.outcome == answered && op.ret.Before(newest) {
					f.order.add("%s: subscriber %d heard %s after what was published later", where, which, m.value)
				}
				if op.call.After(newest) {
					newest = op.call
				}
			}
			whole(where, one, published, f)
		}
	}
}

// whole checks that a connection left nothing out between its beginning and the last that it brought.
func whole(where string, one session, published map[string]nodeOp, f *failover) {
	var last time.Time
	for _, m := range one.messages {
		if call := published[m.value].call; call.After(last) {
			last = call
		}
	}
	for _, value := range sorted(published) {
		op := published[value]
		if op.outcome == answered && op.call.After(one.since) && op.ret.Before(last) &&
			!slices.ContainsFunc(one.messages, func(m message) bool { return m.value == value }) {
			f.lost.add("%s: a subscriber did not hear %s, and later ones on the same connection", where, value)
		}
	}
}

// lacksFunction: the answer says that what was loaded is not there.
func lacksFunction(err error) bool {
	var no errReply
	return errors.As(err, &no) && no == "ERR Function not found"
}

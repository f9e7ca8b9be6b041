package drill

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// outcome is what a client knows of a command.
type outcome int

const (
	answered outcome = iota
	refused          // it was not done
	unknown          // it may have been done, or may still be
)

// nodeOp is a command and its answer.
type nodeOp struct {
	client    int
	kind, key string
	value     string // what was written
	answer    any
	outcome   outcome
	cached    bool // read from the client's own cache
	call, ret time.Time
}

// stormClients send commands at the same time.
const stormClients = 8

// nodeStorm is one round's clients. Its keys are the round's own, so that histories are short.
type nodeStorm struct {
	f      *failover
	prefix string
	stop   context.CancelFunc
	wg     sync.WaitGroup

	talk    sync.RWMutex // is read while a command is on its way
	shunned atomic.Int64 // 1 + the node that nobody talks to; 0: none

	mu     sync.Mutex
	ops    []nodeOp
	heard  [subscribers][]session
	ok     [stormClients + audience]time.Time // newest call that was answered, or what was heard
	lacked int                                // functions that were not there
}

func newNodeStorm(f *failover, round int) *nodeStorm {
	s := &nodeStorm{f: f, prefix: fmt.Sprintf("r%d:", round)}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	for who := range stormClients {
		s.wg.Go(func() {
			commands, pauses := clientDice(f.Seed, round, who)
			s.client(ctx, who, commands, pauses)
		})
	}
	for which := range subscribers {
		s.wg.Go(func() { s.subscriber(ctx, which) })
	}
	for which := range cachers {
		s.wg.Go(func() {
			dice, _ := clientDice(f.Seed, round, stormClients+subscribers+which)
			s.cacher(ctx, which, dice)
		})
	}
	return s
}

// note takes what a fault's own clients were told.
func (s *nodeStorm) note(op nodeOp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops = append(s.ops, op)
}

func (s *nodeStorm) end() {
	s.stop()
	s.wg.Wait()
}

// settled is how long after the last command engines have effects: what was set to expire has done so.
const settled = 700 * time.Millisecond

// hush has clients send nothing until speak is called: all that they asked for is answered, and all that follows
// from it has happened, when it returns. From then on nobody talks to one node until it is mended.
func (s *nodeStorm) hush(ctx context.Context, shun int) (speak func()) {
	s.talk.Lock()
	s.shunned.Store(int64(shun) + 1)
	pauseFor(ctx, settled)
	return sync.OnceFunc(s.talk.Unlock)
}

func (s *nodeStorm) shuns(at int) bool {
	return s.shunned.Load() == int64(at%s.f.Nodes)+1
}

// untilAll waits for d, and until every client has had an answer to something that it asked later.
func (s *nodeStorm) untilAll(ctx context.Context, d, within time.Duration) error {
	begin := time.Now()
	if !pauseFor(ctx, d) {
		return ctx.Err()
	}
	for time.Since(begin) < within {
		s.mu.Lock()
		silent := 0
		for _, at := range s.ok {
			if at.Before(begin) {
				silent++
			}
		}
		s.mu.Unlock()
		if silent == 0 {
			return nil
		}
		if !pauseFor(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("not every client had an answer within %s", within)
}

func (s *nodeStorm) count(o outcome) (n int) {
	for _, op := range s.ops {
		if op.outcome == o {
			n++
		}
	}
	return n
}

// told counts what was heard by subscribers, and what came from clients' caches.
func (s *nodeStorm) told() (messages, cached int) {
	for _, sessions := range s.heard {
		for _, one := range sessions {
			messages += len(one.messages)
		}
	}
	for _, op := range s.ops {
		if op.cached {
			cached++
		}
	}
	return messages, cached
}

// firstWrite is the time from the fault to the first answer to a write that was sent when it was on, in ms.
func (s *nodeStorm) firstWrite(hit *nodeHit) (float64, bool) {
	on := hit.on
	if on.IsZero() {
		on = hit.at
	}
	best := time.Duration(-1)
	for _, op := range s.ops {
		if op.outcome == answered && op.value != "" && !op.call.Before(on) && (best < 0 || op.ret.Sub(hit.at) < best) {
			best = op.ret.Sub(hit.at)
		}
	}
	return float64(best) / 1e6, best >= 0
}

// client goes on until ctx ends. After a command without an answer, it goes to another node.
func (s *nodeStorm) client(ctx context.Context, who int, commands, pauses *rand.Rand) {
	at := who + who/3 // those who mostly read are with different nodes
	var conn *respConn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for k := 0; pauseFor(ctx, time.Duration(pauses.IntN(4))*time.Millisecond); {
		s.talk.RLock()
		if conn != nil && s.shuns(at) {
			_ = conn.Close()
			conn = nil
		}
		if conn == nil {
			at++
			conn = s.connect(ctx, at)
		}
		if conn != nil {
			op, words := s.command(who, k, commands)
			k++
			if op.client = who; !s.ask(conn, op, words) {
				_ = conn.Close()
				conn = nil
			}
		}
		s.talk.RUnlock()
	}
}

// connect finds the at'th node; nil: not now.
func (s *nodeStorm) connect(ctx context.Context, at int) *respConn {
	if s.shuns(at) {
		return nil
	}
	conn, err := s.f.fleet.dial(at)
	if err != nil {
		pauseFor(ctx, 10*time.Millisecond)
		return nil
	}
	return conn
}

// ask sends one client's command and writes down what comes of it; false: there was no answer, or none that says
// that it was done.
func (s *nodeStorm) ask(conn *respConn, op nodeOp, words [][]string) bool {
	op.call = time.Now()
	answer, err := conn.do(words...)
	if lacksScript(err) { // scripts are the clients' to load: as their libraries do
		answer, err = conn.do(append([]string{"EVAL", pairScript}, words[0][2:]...))
	}
	op.answer, op.outcome, op.ret = answer, outcomeOf(err), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops = append(s.ops, op)
	if op.outcome == answered {
		s.ok[op.client] = op.call
	}
	if lacksFunction(err) {
		s.lacked++
	}
	return op.outcome == answered
}

func outcomeOf(err error) outcome {
	var no errReply
	switch {
	case err == nil:
		return answered
	case errors.As(err, &no):
		return refused
	}
	return unknown
}

func lacksScript(err error) bool {
	var no errReply
	return errors.As(err, &no) && strings.HasPrefix(string(no), "NOSCRIPT")
}

const pairScript = `local a = redis.call('INCR', KEYS[1]) local b = redis.call('INCR', KEYS[2]) return {a, b}`

var pairHash = func() string {
	sum := sha1.Sum([]byte(pairScript))
	return hex.EncodeToString(sum[:])
}()

// command chooses what a client does next; every value that is written is unique.
func (s *nodeStorm) command(who, k int, rng *rand.Rand) (nodeOp, [][]string) {
	unique := fmt.Sprintf("%d-%d", who, k)
	key := func(kind string, n int) string { return fmt.Sprintf("%s%s%d", s.prefix, kind, rng.IntN(n)) }
	one := func(kind, key, value string, words ...string) (nodeOp, [][]string) {
		return nodeOp{kind: kind, key: key, value: value}, [][]string{words}
	}
	if who%3 == 0 && rng.IntN(4) > 0 { // some clients mostly read what others mostly write
		k := key("reg", 2)
		return one("get", k, "", "GET", k)
	}
	a, b := s.prefix+"{p}a", s.prefix+"{p}b"
	switch rng.IntN(22) {
	case 0, 1:
		k := key("reg", 4)
		return one("set", k, unique, "SET", k, unique)
	case 2, 3:
		k := key("reg", 4)
		return one("get", k, "", "GET", k)
	case 4:
		k := key("ctr", 3)
		return one("incr", k, "1", "INCR", k)
	case 5:
		k := s.prefix + "hash"
		return one("incr", k, "1", "HINCRBY", k, "f", "1")
	case 6:
		k := s.prefix + "zset"
		return one("zincr", k, "1", "ZINCRBY", k, "1", "m")
	case 7, 8:
		return one("add", s.prefix+"set", unique, "SADD", s.prefix+"set", unique)
	case 9:
		return one("pop", s.prefix+"set", "", "SPOP", s.prefix+"set")
	case 10, 11:
		return one("add", s.prefix+"list", unique, "RPUSH", s.prefix+"list", unique)
	case 12:
		if rng.IntN(2) == 0 {
			return one("pop", s.prefix+"list", "", "BLPOP", s.prefix+"list", "1")
		}
		return one("pop", s.prefix+"list", "", "LPOP", s.prefix+"list")
	case 13:
		return one("xadd", s.prefix+"stream", unique, "XADD", s.prefix+"stream", "*", "v", unique)
	case 14:
		return nodeOp{kind: "pair", key: a, value: "1"}, [][]string{{"MULTI"}, {"INCR", a}, {"INCR", b}, {"EXEC"}}
	case 15:
		return one("pair", a, "1", "EVAL", pairScript, "2", a, b)
	case 16:
		return nodeOp{kind: "pairget", key: a}, [][]string{{"MULTI"}, {"GET", a}, {"GET", b}, {"EXEC"}}
	case 17:
		return one("pair", a, "1", "FCALL", "drill_pair", "2", a, b)
	case 18:
		return one("pair", a, "1", "EVALSHA", pairHash, "2", a, b)
	case 19, 20:
		return one("publish", s.prefix+"news", unique, "PUBLISH", s.prefix+"news", unique)
	}
	k2 := fmt.Sprintf("%sexp%d", s.prefix, who)
	if k%5 == 0 {
		k2 = fmt.Sprintf("%s-%d", k2, k/100) // a new one now and then
		return one("expire", k2, unique, "SET", k2, unique, "PX", "400", "NX")
	}
	k2 = fmt.Sprintf("%sexp%d-%d", s.prefix, rng.IntN(stormClients), k/100)
	return one("expget", k2, "", "GET", k2)
}

// finalState is what is there after a round, asked through any node.
type finalState struct {
	reads   []nodeOp // of registers and counters, as the last commands of their histories
	members map[string][]string
	stream  [][2]string // id, value
}

func (l *nodeFleet) final(ctx context.Context, s *nodeStorm) (*finalState, error) {
	var last error
	if l.others != nil {
		if err := l.others.settled(ctx); err != nil {
			return nil, err
		}
	}
	for end := time.Now().Add(mending); time.Now().Before(end); {
		for i := range l.nodes {
			c, err := l.dial(i)
			if err != nil {
				last = err
				continue
			}
			state, err := readFinal(c, s)
			_ = c.Close()
			if err == nil {
				return state, nil
			}
			last = err
		}
		if !pauseFor(ctx, 50*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("drill: what is there could not be read: %w", last)
}

func readFinal(c *respConn, s *nodeStorm) (*finalState, error) {
	state := &finalState{members: map[string][]string{}}
	keys := map[string]string{}
	for _, op := range s.ops {
		switch op.kind {
		case "set", "get":
			keys[op.key] = "get"
		case "incr", "zincr", "pair":
			keys[op.key] = op.kind
		}
	}
	for _, key := range sorted(keys) {
		op := nodeOp{kind: keys[key] + "final", key: key, call: time.Now(), client: stormClients}
		words := []string{"GET", key}
		switch {
		case keys[key] == "get":
			op.kind = "get"
		case key == s.prefix+"hash":
			words = []string{"HGET", key, "f"}
		case keys[key] == "zincr":
			words = []string{"ZSCORE", key, "m"}
		}
		var err error
		if op.answer, err = c.do(words); err != nil {
			return nil, err
		}
		op.ret = time.Now()
		state.reads = append(state.reads, op)
	}
	for kind, words := range map[string][]string{"set": {"SMEMBERS", s.prefix + "set"}, "list": {"LRANGE", s.prefix + "list", "0", "-1"}} {
		answer, err := c.do(words)
		if err != nil {
			return nil, err
		}
		all, _ := answer.([]any)
		for _, v := range all {
			text, _ := v.(string)
			state.members[kind] = append(state.members[kind], text)
		}
	}
	answer, err := c.do([]string{"XRANGE", s.prefix + "stream", "-", "+"})
	if err != nil {
		return nil, err
	}
	entries, _ := answer.([]any)
	for _, e := range entries {
		pair, _ := e.([]any)
		if len(pair) != 2 {
			return nil, fmt.Errorf("XRANGE: %v", e)
		}
		id, _ := pair[0].(string)
		fields, _ := pair[1].([]any)
		if len(fields) == 2 {
			value, _ := fields[1].(string)
			state.stream = append(state.stream, [2]string{id, value})
		}
	}
	slices.Sort(state.members["set"])
	return state, nil
}

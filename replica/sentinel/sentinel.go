// Package sentinel tells clients that know Redis Sentinel where the leader is, in Sentinel's own
// protocol, on a port of its own. Each node runs one; none of them decides anything.
//
// Promised: it names the node that leads as far as this node knows, and nobody while this node knows
// of none, so that a client goes on to the next address it was given; whoever has subscribed to
// +switch-master hears of each change; what a client does or leaves undone costs a bounded amount
// and nobody else. Not promised: that the answer is still true when it arrives. It need not
// be: any node passes a client on to the leader.
//
// A password is checked when it is given and not asked for, as Redis Sentinel comes: what there is
// to read are addresses.
package sentinel

import (
	"context"
	"errors"
	"github.com/holdfast-dev/holdfast/internal/mutant"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// Config says what a server needs. The listener belongs to it from New on.
type Config struct {
	Listener net.Listener
	Self     uint64 // this node's id
	Name     string // what clients call the cluster
	Password string // of AUTH and HELLO; empty: there is none to give
	Conns    int    // at once, default 10,000
	Logger   *slog.Logger
}

// Member is a node as clients see it.
type Member struct {
	ID       uint64
	Clients  string // host:port
	Sentinel string // host:port; empty: it runs none
	Voter    bool
}

// Server answers clients. Close ends it.
type Server struct {
	cfg  Config
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	conns  map[*conn]struct{}
	lastID int64
	known
	told    Member               // the leader that was named last
	answers map[uint64]time.Time // when each of the others was last there
}

// known is what the node knows of the cluster.
type known struct {
	members []Member
	leader  uint64 // 0: nobody, as far as this node knows
	term    uint64
}

const defaultConns = 10_000

// New begins to answer.
func New(cfg Config) *Server {
	if cfg.Conns == 0 {
		cfg.Conns = defaultConns
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Server{cfg: cfg, conns: map[*conn]struct{}{}, answers: map[uint64]time.Time{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.wg.Add(2)
	go s.accept()
	go s.watch()
	return s
}

// SetLeader says who leads, 0 for nobody, and since which term. It does not wait for clients.
func (s *Server) SetLeader(id, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader, s.term = id, term
	s.tell()
}

// SetMembers says who belongs to the cluster. It does not wait for clients.
func (s *Server) SetMembers(members []Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = members
	maps.DeleteFunc(s.answers, func(id uint64, _ time.Time) bool {
		return !slices.ContainsFunc(members, func(m Member) bool { return m.ID == id })
	})
	s.tell()
}

// tell publishes a change of the leader's address; it needs mu.
func (s *Server) tell() {
	m, ok := s.master()
	if !ok || m.Clients == s.told.Clients || mutant.StayWithFirst && s.told.Clients != "" {
		return
	}
	before := s.told
	s.told = m
	if before.Clients != "" {
		oldHost, oldPort := split(before.Clients)
		host, port := split(m.Clients)
		s.publish("+switch-master", s.cfg.Name+" "+oldHost+" "+oldPort+" "+host+" "+port)
	}
}

// master is who leads.
func (k *known) master() (Member, bool) {
	for _, m := range k.members {
		if m.ID == k.leader && k.leader != 0 {
			return m, true
		}
	}
	return Member{}, false
}

// majority of those who vote.
func (k *known) majority() int {
	voters := 0
	for _, m := range k.members {
		if m.Voter {
			voters++
		}
	}
	return voters/2 + 1
}

// split takes an address apart; one without a port is all host.
func split(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, "0"
	}
	return host, port
}

func (s *Server) accept() {
	defer s.wg.Done()
	for {
		c, err := s.cfg.Listener.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.cfg.Logger.Warn("sentinel: cannot accept a client", "error", err)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		s.admit(c)
	}
}

// admit serves a client, if there is room.
func (s *Server) admit(raw net.Conn) {
	s.mu.Lock()
	full := len(s.conns) >= s.cfg.Conns
	s.lastID++
	c := newConn(s, raw, s.lastID)
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		_ = raw.Close()
		return
	}
	if !full {
		s.conns[c] = struct{}{}
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if full {
		_ = raw.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = raw.Write([]byte("-ERR max number of clients reached\r\n")) // it may have gone
		_ = raw.Close()
		return
	}
	go func() {
		defer s.wg.Done()
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// Close ends all connections and returns when no goroutine is left.
func (s *Server) Close() error {
	s.stop()
	err := s.cfg.Listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.hangUp()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

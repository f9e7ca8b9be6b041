// Package transport carries raft's messages, snapshots' files and other streams between the
// nodes of one cluster, over TLS 1.3 with both sides authenticated by one shared secret.
//
// Promised: whoever lacks the secret is refused before a byte of the protocol; messages that
// keep a leader alive do not wait behind data; a peer that does not read costs bounded
// memory. Not promised: that a message arrives. Raft sends again what is lost.
package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

var (
	// ErrSecret: the other side has another secret, or none.
	ErrSecret = errors.New("replica: the other node has another secret")
	// ErrOtherCluster: the other side belongs to another cluster.
	ErrOtherCluster = errors.New("replica: the other node belongs to another cluster")
	// ErrVersion: the other side speaks a version that this one does not.
	ErrVersion = errors.New("replica: the other node speaks another version of the protocol")
	// ErrRefused: the other side does not want this connection; its reason is quoted.
	ErrRefused = errors.New("replica: the other node refused")
	// ErrProtocol: what came is not the protocol.
	ErrProtocol = errors.New("replica: unexpected bytes from another node")
	// ErrNoNode: what listens there took the connection, and did not answer as a node does.
	ErrNoNode = errors.New("replica: no node answers there")
)

// Config says who the node is and who takes what arrives. Its functions may be called at the
// same time from many goroutines.
type Config struct {
	ID       uint64
	Cluster  string       // empty while the node has not joined one
	Secret   []byte       // at least MinSecret bytes
	Listener net.Listener // nil: nobody can connect
	Logger   *slog.Logger // nil: slog.Default

	Message      func(m *pb.Message)
	Snapshot     func(m *pb.Message, file io.Reader) error // m is a MsgSnap
	OpenSnapshot func(m *pb.Message) (file io.ReadCloser, size int64, err error)
	SnapshotSent func(to uint64, ok bool)
	Unreachable  func(id uint64)
	Lost         func(id uint64)          // the newest connection by which that node sent messages broke; may be nil
	Streams      map[string]func(c *Conn) // by kind; the function owns the connection
}

// Transport is one node's end of all its connections.
type Transport struct {
	cfg    Config
	server *tls.Config
	client *tls.Config
	from   *net.TCPAddr // dials leave from here
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	places chan struct{} // connections that have not said who they are

	mu      sync.Mutex
	cluster string
	peers   map[uint64]*peer
	conns   map[*Conn]struct{}
	newest  map[sender]*Conn

	complained time.Time
}

// maxStrangers bounds the connections whose handshake is not done.
const maxStrangers = 64

// New listens. Close ends it.
func New(cfg Config) (*Transport, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	server, client, err := identities(cfg.Secret, cfg.ID)
	if err != nil {
		return nil, err
	}
	t := &Transport{cfg: cfg, server: server, client: client, cluster: cfg.Cluster,
		peers: map[uint64]*peer{}, conns: map[*Conn]struct{}{},
		newest: map[sender]*Conn{}, places: make(chan struct{}, maxStrangers)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if cfg.Listener == nil { // it only asks
		return t, nil
	}
	if a, ok := cfg.Listener.Addr().(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
		t.from = &net.TCPAddr{IP: a.IP}
	}
	t.wg.Add(1)
	go t.accept()
	return t, nil
}

// SetCluster names the cluster, once the node belongs to one.
func (t *Transport) SetCluster(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cluster = name
}

func (t *Transport) name() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cluster
}

// SetPeers says which nodes there are and where.
func (t *Transport) SetPeers(addrs map[uint64]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		if addrs[id] != p.addr {
			p.close()
			delete(t.peers, id)
		}
	}
	for id, addr := range addrs {
		if id != t.cfg.ID && t.peers[id] == nil && t.ctx.Err() == nil {
			t.peers[id] = newPeer(t, id, addr)
		}
	}
}

// Send gives messages to the connections of those they are for; what finds no room is dropped.
func (t *Transport) Send(ms []*pb.Message) {
	for _, m := range ms {
		t.mu.Lock()
		p := t.peers[m.GetTo()]
		t.mu.Unlock()
		switch snapshot := m.GetType() == pb.MsgSnap; {
		case snapshot && (p == nil || !p.sendSnapshot(m)): // raft waits to hear what became of it
			t.cfg.SnapshotSent(m.GetTo(), false)
		case !snapshot && (p == nil || !p.send(m)):
			t.cfg.Unreachable(m.GetTo())
		}
	}
}

// Close ends all connections. No goroutine is left when it returns, but for those of streams
// that were handed out.
func (t *Transport) Close() error {
	t.cancel()
	var err error
	if t.cfg.Listener != nil {
		err = t.cfg.Listener.Close()
	}
	t.mu.Lock()
	for _, p := range t.peers {
		p.close()
	}
	for c := range t.conns {
		_ = c.NetConn().Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
	return err
}

// dialTime bounds a connection's handshake.
const dialTime = 3 * time.Second

// Dial opens a stream of that kind to the node at addr. Its errors are those of the package,
// or of the network.
func (t *Transport) Dial(ctx context.Context, addr, kind string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	d := net.Dialer{KeepAlive: 5 * time.Second}
	if t.from != nil {
		d.LocalAddr = t.from
	}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: tls.Client(raw, t.client), t: t}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	err = c.introduce(ctx, hello{Version: protocol, Cluster: t.name(), ID: t.cfg.ID, Kind: kind})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	if !t.track(c) {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	return c, nil
}

// track lets Close end what is open.
func (t *Transport) track(c *Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	t.conns[c] = struct{}{}
	return true
}

func (t *Transport) accept() {
	defer t.wg.Done()
	for number := uint64(1); ; number++ {
		raw, err := t.cfg.Listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil {
				return
			}
			t.cfg.Logger.Warn("replica: cannot accept", "error", err)
			if !pause(t.ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		select {
		case t.places <- struct{}{}:
		default: // too many that do not say who they are
			_ = raw.Close()
			continue
		}
		t.wg.Add(1)
		go func() {
			defer t.wg.Done()
			c, handle, err := t.greet(raw, number)
			<-t.places
			if err != nil {
				t.refused(raw.RemoteAddr(), err)
				return
			}
			handle(c)
		}()
	}
}

// refusedEvery keeps a node with another secret, which tries for ever, from filling the log.
const refusedEvery = 10 * time.Second

func (t *Transport) refused(from net.Addr, err error) {
	t.mu.Lock()
	quiet := time.Since(t.complained) < refusedEvery
	if !quiet {
		t.complained = time.Now()
	}
	t.mu.Unlock()
	if !quiet && t.ctx.Err() == nil {
		t.cfg.Logger.Warn("replica: connection refused", "from", from.String(), "error", err)
	}
}

// greet finds out who connects and for what.
func (t *Transport) greet(raw net.Conn, number uint64) (*Conn, func(*Conn), error) {
	c := &Conn{Conn: tls.Server(raw, t.server), t: t, number: number}
	_ = raw.SetDeadline(time.Now().Add(dialTime))
	h, err := c.receiveHello(t.ctx)
	if err != nil {
		return nil, nil, errors.Join(err, raw.Close())
	}
	handle, err := t.admit(h)
	answer := reply{}
	if err != nil {
		answer = reply{Code: code(err), Text: err.Error()}
	}
	if err = errors.Join(err, writeJSON(c, answer)); err != nil {
		return nil, nil, errors.Join(err, raw.Close())
	}
	c.Peer, c.Kind = h.ID, h.Kind
	_ = raw.SetDeadline(time.Time{})
	if !t.track(c) {
		return nil, nil, errors.Join(net.ErrClosed, raw.Close())
	}
	return c, handle, nil
}

func (t *Transport) admit(h hello) (func(*Conn), error) {
	own := t.name()
	switch {
	case h.Version != protocol:
		return nil, fmt.Errorf("%w: %d and %d", ErrVersion, h.Version, protocol)
	case h.Cluster != "" && own != "" && h.Cluster != own:
		return nil, fmt.Errorf("%w: %.64s, not %s", ErrOtherCluster, h.Cluster, own)
	}
	switch h.Kind {
	case kindControl, kindData:
		return t.hear, nil
	case kindSnapshot:
		return t.receiveSnapshot, nil
	}
	if f := t.cfg.Streams[h.Kind]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("%w: unknown kind %.32q", ErrRefused, h.Kind)
}

// sender is who sends messages, by which of its two connections.
type sender struct {
	id   uint64
	kind string
}

// hear takes messages until the connection ends, and tells of its end if the node has no newer one: of one that
// the network had given up nobody hears for long, and then it says nothing of how the node is.
func (t *Transport) hear(c *Conn) {
	from := sender{c.Peer, c.Kind}
	t.mu.Lock()
	if other := t.newest[from]; other == nil || other.number < c.number {
		t.newest[from] = c
	}
	t.mu.Unlock()
	t.receive(c)
	t.mu.Lock()
	newest := t.newest[from] == c
	if newest {
		delete(t.newest, from)
	}
	t.mu.Unlock()
	if newest && t.cfg.Lost != nil && t.ctx.Err() == nil {
		t.cfg.Lost(c.Peer)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

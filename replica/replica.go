// Package replica runs a node: one unmodified Valkey or Redis, and beside it what makes a
// cluster of them lose nothing. The engine executes, a log on a majority of disks decides
// what happened, and no reply leaves before the log has what it rests on.
//
// Promised, as long as a majority of the nodes keeps its disks: what was acknowledged is not
// lost, by kill, power loss or partition of any nodes; reads and writes are linearizable;
// every command of the engine works, but for those that would go round the node; clients
// need no change. Not promised: that a command without an answer was not done.
//
// README.md in this directory tells the protocol.
package replica

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/core"
	"github.com/holdfast-dev/holdfast/replica/engine"
	"github.com/holdfast-dev/holdfast/replica/gate"
	"github.com/holdfast-dev/holdfast/replica/repl"
	"github.com/holdfast-dev/holdfast/replica/sentinel"
	"github.com/holdfast-dev/holdfast/replica/transport"
)

var (
	// ErrConfig: the configuration contradicts itself, or what the directory holds.
	ErrConfig = errors.New("replica: configuration")
	// ErrJoin: no node took this one into its cluster. Each one's reason is quoted.
	ErrJoin = errors.New("replica: could not join")
	// ErrNoLeader: the cluster has no leader at the moment, or this node does not know it.
	ErrNoLeader = errors.New("replica: no leader at the moment")
)

// Config says what a node needs. The listeners belong to the node from Open on.
type Config struct {
	Dir      string // identity, log, snapshots, the engine's socket
	Engine   string // program; empty: valkey-server or redis-server on PATH
	Name     string // for people; empty: a part of the id
	Password string // clients', the same on every node; empty: none
	Secret   []byte // the nodes', the same on every node

	Clients net.Listener
	Raft    net.Listener
	// What others are told; empty: the listeners' own addresses.
	AdvertiseClients, AdvertiseRaft, AdvertiseSentinel string

	Sentinel     net.Listener // for clients that ask sentinels who leads; nil: nobody can
	SentinelName string       // what they call the cluster; empty: DefaultSentinelName

	Join []string // nodes' addresses, when the directory is empty; none: a new cluster

	// Reserve is how many bytes of disk are kept for the log. As many have to be free beside them, or
	// clients' writes are refused. 0: 128 MiB.
	Reserve int64

	FS     vfs.FS       // of log and snapshots; nil: the disk
	Logger *slog.Logger // nil: slog.Default
}

// MinSecret is the least length of Config.Secret in bytes.
const MinSecret = transport.MinSecret

// DefaultSentinelName is what clients of sentinels call the cluster, unless it is said otherwise.
const DefaultSentinelName = "holdfast"

func (c *Config) defaults() {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Reserve == 0 {
		c.Reserve = defaultReserve
	}
}

// Member is what nodes know of one another.
type Member struct {
	ID       uint64 `json:"id"`
	Name     string `json:"name"`
	Clients  string `json:"clients"`
	Raft     string `json:"raft"`
	Sentinel string `json:"sentinel,omitempty"`
	Voter    bool   `json:"voter"`
}

// Node is a running node. Close ends it.
type Node struct {
	cfg   Config
	log   *slog.Logger
	ident identity
	self  Member

	cons *consensus.Node
	net  *transport.Transport
	gate *gate.Gate
	feed *repl.Feed

	discovery *sentinel.Server // nil without a listener

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	feedPassword string
	stats        *stats
	clock        atomic.Pointer[func() time.Time] // what others are told; a test has one of its own
	patience     time.Duration                    // of drive, see consume
	telling      sync.Once                        // of takenOut
	replayed     []beginning                      // of Apply, see tellReplayed

	mu         sync.Mutex
	moved      chan struct{} // closed and replaced whenever something below has changed
	core       *core.Core
	index      uint64 // applied
	removed    bool   // see takenOut
	memberAt   uint64 // the first entry at which this node is known to be a member
	spans      spans
	copied     stored // what the newest snapshot stands for
	copyAt     uint64 // its index
	members    []Member
	leader     uint64 // as far as this node knows
	engine     *engine.Engine
	session    *session
	tunnels    map[io.Closer]struct{}
	clients    atomic.Int64  // connections that this node has taken
	maxClients atomic.Int64  // how many it takes
	wanted     bool          // a snapshot is
	wants      chan struct{} // one slot: wanted was set
	started    time.Time

	peers   map[uint64]peerView
	low     bool    // this node's disk has too little room for what clients write
	without int     // voters of whom the same is known
	refuses refusal // what the engine was told last
}

// identity is what a node keeps beside its log.
type identity struct {
	Format  int      `json:"format"`
	Cluster string   `json:"cluster"`
	ID      uint64   `json:"id"`
	Peers   []Member `json:"peers,omitempty"` // who was there when it joined
}

const identityFormat = 1

// Open starts a node: one that was here before, the first of a new cluster, or one that joins.
// Errors: ErrConfig, ErrJoin, those of packages engine and consensus.
func Open(ctx context.Context, cfg Config) (n *Node, err error) {
	cfg.defaults()
	n = &Node{cfg: cfg, log: cfg.Logger, moved: make(chan struct{}), tunnels: map[io.Closer]struct{}{},
		wants: make(chan struct{}, 1), peers: map[uint64]peerView{}, feedPassword: randomHex(24), started: time.Now()}
	n.maxClients.Store(maxClients)
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.stats = newStats(n)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := n.identify(); err != nil {
		return n, err
	}
	n.core = core.New(n.ident.ID)
	if n.fresh() && len(cfg.Join) == 0 {
		if err := n.bootstrap(ctx); err != nil {
			return n, err
		}
	}
	if err := n.connect(); err != nil {
		return n, err
	}
	if n.fresh() {
		if err := n.join(ctx); err != nil {
			return n, err
		}
	}
	return n, n.run()
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// fresh: this node does not belong to a cluster yet.
func (n *Node) fresh() bool { return n.ident.Cluster == "" }

// identify reads who this node is, or decides it.
func (n *Node) identify() error {
	if err := consensus.MakeDir(vfs.Default, n.cfg.Dir); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	b, err := os.ReadFile(n.identityFile())
	switch {
	case errors.Is(err, os.ErrNotExist):
		var id [8]byte
		_, _ = rand.Read(id[:]) // never fails
		n.ident = identity{Format: identityFormat}
		for _, b := range id[:7] {
			n.ident.ID = n.ident.ID<<8 | uint64(b)
		}
		n.ident.ID |= 1 << 40 // never 0, and below what raft keeps for itself
		if err := n.belong("", nil); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	case err != nil:
		return fmt.Errorf("%w: %w", ErrConfig, err)
	default:
		if err := json.Unmarshal(b, &n.ident); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrConfig, n.identityFile(), err)
		}
		if n.ident.Format != identityFormat {
			return fmt.Errorf("%w: %s has format %d, which this version does not know", ErrConfig, n.identityFile(), n.ident.Format)
		}
	}
	n.self = Member{ID: n.ident.ID, Name: n.cfg.Name, Clients: orElse(n.cfg.AdvertiseClients, n.cfg.Clients.Addr().String()),
		Raft: orElse(n.cfg.AdvertiseRaft, n.cfg.Raft.Addr().String())}
	if n.self.Name == "" {
		n.self.Name = fmt.Sprintf("%014x", n.ident.ID)[8:]
	}
	return n.announce()
}

func orElse(v, or string) string {
	if v == "" {
		return or
	}
	return v
}

func (n *Node) identityFile() string { return filepath.Join(n.cfg.Dir, "node.json") }

// belong writes down that this node is a member of a cluster.
func (n *Node) belong(cluster string, peers []Member) error {
	n.ident.Cluster, n.ident.Peers = cluster, peers
	b, err := json.MarshalIndent(n.ident, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(n.identityFile(), b)
}

// writeFile writes a file whole and to disk, or not at all.
func writeFile(path string, b []byte) error {
	tmp := path + ".part"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (n *Node) logConfig() consensus.Config {
	return consensus.Config{ID: n.ident.ID, Dir: filepath.Join(n.cfg.Dir, "raft"), FS: n.cfg.FS, Machine: (*machine)(n),
		Send: func(ms []*pb.Message) { n.net.Send(ms) }, WantSnapshot: n.wantSnapshot, Observe: n.stats.observe,
		ReserveBytes: n.cfg.Reserve, Logger: n.log}
}

// bootstrap begins a cluster with the contents of an engine that has just been started.
func (n *Node) bootstrap(ctx context.Context) error {
	e, err := n.startEngine(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = e.Stop() }() // it keeps nothing
	conn, err := e.Admin(ctx)
	if err != nil {
		return err
	}
	member, err := json.Marshal(n.self)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(n.cfg.Dir, "first-*.rdb")
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	a, err := repl.Copy(ctx, conn, file)
	if err != nil {
		return err
	}
	at := a.Position()
	if err := a.Close(); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	first := stored{Format: storedFormat, Copy: at.Offset, State: core.State{Offset: at.Offset, Safe: at.Offset,
		Epochs: []core.Epoch{{Number: 1, Node: n.ident.ID, ReplID: at.ReplID, Start: at.Offset}}}}
	data, err := json.Marshal(first)
	if err != nil {
		return err
	}
	body := func(w io.Writer) error { _, err := io.Copy(w, file); return err }
	// A node that was killed right here has a log, and does not know it yet.
	if err := consensus.Bootstrap(n.logConfig(), member, data, body); err != nil && !errors.Is(err, consensus.ErrExists) {
		return err
	}
	n.log.Info("a new cluster begins", "node", n.self.Name)
	return n.belong(randomHex(16), nil)
}

// connect opens what other nodes and the engine connect to, and the log.
func (n *Node) connect() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	n.discover()
	n.feed = repl.NewFeed(l, feedUser, n.feedPassword, (*source)(n), n.log)
	n.gate = gate.New(gate.Config{Engine: n.clientConn, Probe: n.adminConn, Proposed: n.proposed, Verify: n.verify, Logger: n.log})
	n.net, err = transport.New(transport.Config{
		ID: n.ident.ID, Cluster: n.ident.Cluster, Secret: n.cfg.Secret, Listener: n.cfg.Raft, Logger: n.log,
		Message:  func(m *pb.Message) { n.withLog(func(c *consensus.Node) { c.Step(m) }) },
		Snapshot: n.receiveSnapshot, OpenSnapshot: n.openSnapshot,
		SnapshotSent: func(to uint64, ok bool) { n.withLog(func(c *consensus.Node) { c.SnapshotSent(to, ok) }) },
		Unreachable:  func(id uint64) { n.withLog(func(c *consensus.Node) { c.Unreachable(id) }) },
		Lost:         func(id uint64) { n.withLog(func(c *consensus.Node) { c.Lost(id) }) },
		Streams: map[string]func(*transport.Conn){
			"client": func(c *transport.Conn) { _ = n.gate.Serve(c) }, // it answers the client itself
			"admin":  n.serveAdmin,
			"report": n.serveReports,
		},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	cons, err := consensus.Open(n.logConfig())
	if errors.Is(err, consensus.ErrInUse) {
		return fmt.Errorf("%w: another process runs this directory, %s: %w", ErrConfig, n.cfg.Dir, err)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.cons = cons
	removed := n.removed
	n.mu.Unlock()
	if removed { // its log had that
		cons.Stop(ErrTakenOut)
	}
	if len(n.ident.Peers) > 0 && len(n.known()) == 0 {
		n.setMembers(n.ident.Peers)
	}
	return nil
}

const feedUser = "feed"

// withLog is for what can arrive before the log is open.
func (n *Node) withLog(f func(*consensus.Node)) {
	n.mu.Lock()
	c := n.cons
	n.mu.Unlock()
	if c != nil {
		f(c)
	}
}

func (n *Node) run() error {
	for _, f := range []func(){n.watch, n.drive, n.accept, n.snapshots, n.tend, n.listen, n.tendRoom, n.askPeers, n.watchLog} {
		n.wg.Add(1)
		go func() {
			defer n.wg.Done()
			f()
		}()
	}
	n.log.Info("node runs", "name", n.self.Name, "cluster", n.ident.Cluster, "clients", n.self.Clients, "raft", n.self.Raft, "sentinel", n.self.Sentinel)
	return nil
}

// Failed is closed when the node cannot go on: its log failed, or the cluster has removed it (ErrTakenOut). Err says why.
func (n *Node) Failed() <-chan struct{} { return n.cons.Stopped() }

// Err is why the node stopped by itself.
func (n *Node) Err() error { return n.cons.Failed() }

// Close ends the node: replies that are held never leave, the log stays as it is. No goroutine
// is left when it returns.
func (n *Node) Close() (err error) {
	n.stop()
	_ = n.cfg.Clients.Close() // whose end is told by accept
	if n.discovery != nil {
		err = n.discovery.Close()
	} else if n.cfg.Sentinel != nil {
		_ = n.cfg.Sentinel.Close()
	}
	if n.gate != nil {
		n.gate.Close()
	}
	n.mu.Lock()
	for c := range n.tunnels {
		_ = c.Close() // their ends are told by those who wait for them
	}
	s := n.session
	n.mu.Unlock()
	if s != nil {
		s.end()
	}
	if n.net != nil {
		err = errors.Join(err, n.net.Close())
	} else {
		_ = n.cfg.Raft.Close()
	}
	if n.cons != nil {
		err = errors.Join(err, n.cons.Close())
	}
	if n.feed != nil {
		err = errors.Join(err, n.feed.Close())
	}
	n.wg.Wait()
	if n.engine != nil {
		err = errors.Join(err, n.engine.Stop())
	}
	return err
}

// changed wakes all who wait for something to become different; it needs mu.
func (n *Node) changed() {
	close(n.moved)
	n.moved = make(chan struct{})
}

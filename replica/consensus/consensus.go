// Package consensus keeps one log on a majority of nodes. It drives the deterministic core of
// go.etcd.io/raft with one goroutine, syncs the log (on Pebble) in another while messages are
// already on their way, and hands what is committed to a Machine from a third.
//
// Promised: an entry that was handed to a Machine is on the disks of a majority and in every
// later leader's log; Machines are handed the same entries in the same order; Verify answers
// yes only if this node led, in one term, until after the call.
// Not promised: that a proposal is committed. Whoever proposes sees it come back, or loses
// the term in which it was proposed.
//
// Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014;
// Ongaro's thesis, 2014, 6.4 (reads), 9.6 (pre-vote); asynchronous storage writes as
// documented by go.etcd.io/raft.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

var (
	// ErrNotLeader: this node does not lead in that term; nothing was proposed.
	ErrNotLeader = errors.New("replica: this node does not lead")
	// ErrClosed: the node was closed, or its disk failed; see Node.Failed.
	ErrClosed = errors.New("replica: the log is closed")
	// ErrInUse: another process has the log open.
	ErrInUse = errors.New("replica: the log is in use")
	// ErrCompacted: the entries asked for are behind the snapshot.
	ErrCompacted = errors.New("replica: the log no longer has these entries")
	// ErrDamaged: the log's files are not what was written. The node's data has to be removed,
	// and comes back from its peers.
	ErrDamaged = errors.New("replica: the log is damaged")
	// ErrFull: the log's disk is full, and its reserve is used up. What the log has is sound: it can
	// be opened again when there is room.
	ErrFull = errors.New("replica: the disk of the log is full")
	// ErrFormat: the files were written by a newer version.
	ErrFormat = errors.New("replica: the log has a format that this version does not know")
	// ErrExists: the directory has a log already.
	ErrExists = errors.New("replica: the directory already has a log")
	// ErrStopped: a change was not made in time. It may still be made.
	ErrStopped = errors.New("replica: the change has not been made in time")
)

// Entry is an entry of the log. Data is empty in a leader's first entry of its term.
type Entry struct {
	Index, Term uint64
	Data        []byte // must not be changed
	// Old: it was in this node's log when the node started, which is to say that it is no news; Newest: no later one was.
	Old, Newest bool
}

// Member is a node of the cluster. Only voters count for a majority.
type Member struct {
	ID      uint64 `json:"id"`
	Voter   bool   `json:"voter"`
	Context []byte `json:"context"` // what was given when it was added
}

// Snapshot stands for the log up to Index.
type Snapshot struct {
	Index, Term uint64
	Data        []byte
}

// Machine is told what is committed, always from the same goroutine. Its errors end the node.
type Machine interface {
	// Apply takes the next entries, in the order of the log.
	Apply(entries []Entry) error
	// Restore puts a snapshot in the place of all that was applied; its file is there.
	Restore(s Snapshot) error
	// Members tells the members after a change, and once at the start.
	Members(members []Member)
}

// Config says how to run a node. Zero durations and sizes have the default that is named.
type Config struct {
	ID      uint64 // not 0, never used by another node of the cluster
	Dir     string
	FS      vfs.FS // nil: the disk
	Machine Machine
	Send    func([]*pb.Message) // to other nodes; must not block, may drop
	// WantSnapshot: a member needs a snapshot that is newer than the one there is (SaveSnapshot,
	// at an entry that follows the member's coming). It is called again and again; must not block.
	WantSnapshot func()

	Tick           time.Duration // 20 ms
	HeartbeatTicks int           // 3
	ElectionTicks  int           // 15: an election begins after one to two times this

	CacheBytes int64 // of recent entries in memory; 64 MiB
	KeepBytes  int64 // of the log behind a snapshot, for nodes that are not far behind; 64 MiB
	// ReserveBytes of disk are kept for the log and given up when a write of the log finds no room; 0: none.
	ReserveBytes int64

	Observe func(Event, time.Duration) // may be nil; must not block
	Logger  *slog.Logger               // nil: slog.Default
}

// Event is what Observe is told the time of.
type Event string

const (
	Synced   Event = "sync"   // entries to this node's disk
	Verified Event = "verify" // from Verify's call to its answer
)

func (c *Config) withDefaults() error {
	if c.ID == 0 || c.Machine == nil || c.Send == nil || c.WantSnapshot == nil || c.Dir == "" {
		return errors.New("replica: ID, Dir, Machine, Send and WantSnapshot are needed")
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Observe == nil {
		c.Observe = func(Event, time.Duration) {}
	}
	c.Tick = orElse(c.Tick, 20*time.Millisecond)
	c.HeartbeatTicks = orElse(c.HeartbeatTicks, 3)
	c.ElectionTicks = orElse(c.ElectionTicks, 15)
	c.CacheBytes = orElse(c.CacheBytes, 64<<20)
	c.KeepBytes = orElse(c.KeepBytes, 64<<20)
	if c.ElectionTicks <= c.HeartbeatTicks {
		return fmt.Errorf("replica: ElectionTicks %d must be more than HeartbeatTicks %d", c.ElectionTicks, c.HeartbeatTicks)
	}
	return nil
}

func orElse[T comparable](v, or T) T {
	var zero T
	if v == zero {
		return or
	}
	return v
}

// State is where a node is.
type State struct {
	ID, Leader uint64 // Leader is 0 while there is none
	Term       uint64
	Leads      bool
	Commit     uint64
	Applied    uint64
	First      uint64 // of the entries that the log still has
	Last       uint64
}

// done waits for one answer.
func done(ctx context.Context, answer <-chan error, stopped <-chan struct{}) error {
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrStopped, ctx.Err())
	case <-stopped:
		return ErrClosed
	}
}

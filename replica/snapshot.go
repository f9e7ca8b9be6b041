package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/core"
	"github.com/holdfast-dev/holdfast/replica/repl"
)

// A snapshot is made when the log behind the last one has become larger than the copy, and
// than this.
const snapshotAfter = 64 << 20

// noRoomFor is how long a disk that had no room for a snapshot is left alone.
const noRoomFor = 15 * time.Second

// snapshotTime bounds the making of one.
const snapshotTime = 10 * time.Minute

// wantSnapshot is the log's wish. It does not wait.
func (n *Node) wantSnapshot() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = true
	select {
	case n.wants <- struct{}{}:
	default:
	}
}

// snapshots makes them when they are due.
func (n *Node) snapshots() {
	for n.ctx.Err() == nil {
		n.mu.Lock()
		wanted, at, grown := n.wanted, n.copyAt, n.core.State().Offset-n.copied.State.Offset
		n.mu.Unlock()
		due := at > 0 && grown > snapshotAfter && grown > n.copySize(at)
		if !wanted && !due {
			n.rest(time.Second, n.wants)
			continue
		}
		begin := time.Now()
		err := n.snapshot()
		switch {
		case err != nil && n.ctx.Err() == nil:
			n.log.Warn("snapshot not made; it is tried again", "error", err)
			n.stats.snapshots.WithLabelValues("failed").Inc()
			if errors.Is(err, errNoRoom) {
				n.rest(noRoomFor, nil)
			}
			n.rest(time.Second, nil)
		case err == nil:
			n.log.Info("snapshot made", "took", time.Since(begin))
			n.stats.snapshots.WithLabelValues("made").Inc()
			n.rest(100*time.Millisecond, nil)
		}
	}
}

// copySize is how large a copy is. It asks the disk, which may stand still: not under mu, for which the log
// waits.
func (n *Node) copySize(at uint64) int64 {
	size, _, _ := n.cons.SnapshotInfo(at) // 0 when there is none
	return size
}

var errMoved = errors.New("replica: leadership changed meanwhile")

// snapshot copies the engine and puts the copy in the place of the log up to where this node
// was when it began. The copy is at or past that place: the log's rest has the bytes between.
func (n *Node) snapshot() error {
	ctx, cancel := context.WithTimeout(n.ctx, snapshotTime)
	defer cancel()
	index, state, err := n.atBoundary(ctx)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(n.cfg.Dir, "copy-*.rdb")
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	at, err := n.copyEngine(ctx, &careful{w: file, n: n})
	if err != nil {
		return err
	}
	if err := n.awaitCommitted(ctx, state.Current().Number, at); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	st := stored{Format: storedFormat, State: state, Copy: at}
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.wanted = false
	n.mu.Unlock()
	if err := n.cons.SaveSnapshot(index, data, func(w io.Writer) error { _, err := io.Copy(&careful{w: w, n: n}, file); return err }); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if index > n.copyAt {
		n.copyAt, n.copied = index, st
		n.spans.drop(index, state.Offset)
	}
	return nil
}

// atBoundary waits for a place where the stream can be cut and the engine has come to.
func (n *Node) atBoundary(ctx context.Context) (uint64, core.State, error) {
	for {
		n.mu.Lock()
		index, state, moved := n.index, n.core.State().Clone(), n.moved
		step := n.core.Next().Do
		n.mu.Unlock()
		if state.Offset == state.Safe && index > 0 && (step == core.Lead || step == core.Rest) {
			if step == core.Lead {
				return index, state, nil // the engine is ahead of the log
			}
			if err := n.awaitFed(ctx, state.Safe); err != nil {
				return 0, state, err
			}
			return index, state, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, state, ctx.Err()
		}
	}
}

// awaitFed waits until the engine, which follows, has come to offset.
func (n *Node) awaitFed(ctx context.Context, offset int64) error {
	for {
		e := n.currentEngine()
		if e == nil {
			return errMoved
		}
		r, err := e.Role(ctx)
		if err != nil {
			return err
		}
		if r.Master {
			return errMoved
		}
		if r.Link == "connected" && r.Offset >= offset {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Node) copyEngine(ctx context.Context, w io.Writer) (int64, error) {
	conn, err := n.adminConn(ctx)
	if err != nil {
		return 0, err
	}
	a, err := repl.Copy(ctx, conn, w)
	if err != nil {
		return 0, err
	}
	return a.Position().Offset, a.Close()
}

// awaitCommitted waits until all that the copy holds is committed. A leader's engine is ahead
// of the log; should another epoch begin before the log has caught up, the copy is worth nothing.
func (n *Node) awaitCommitted(ctx context.Context, epoch uint64, offset int64) error {
	for {
		n.mu.Lock()
		state, moved := n.core.State(), n.moved
		safe, now := state.Safe, state.Current().Number
		n.mu.Unlock()
		switch {
		case now != epoch:
			return errMoved
		case safe >= offset:
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Node) openSnapshot(m *pb.Message) (io.ReadCloser, int64, error) {
	return n.cons.SnapshotFile(m.GetSnapshot().GetMetadata().GetIndex())
}

func (n *Node) receiveSnapshot(m *pb.Message, file io.Reader) (err error) {
	err = fmt.Errorf("%w: the log is not open yet", consensus.ErrClosed)
	n.withLog(func(c *consensus.Node) { err = c.ReceiveSnapshot(m, file) })
	return err
}

package replica

import (
	"context"
	"errors"
	"io"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/core"
	"github.com/holdfast-dev/holdfast/replica/repl"
)

// source is the Node as its engine's feed sees it.
type source Node

// Resume judges the engine by what is committed, and waits while that is open.
func (s *source) Resume(ctx context.Context, from repl.Position) (int64, error) {
	n := (*Node)(s)
	for {
		n.mu.Lock()
		verdict, moved := n.core.Resume(from.ReplID, from.Offset), n.moved
		begins := n.core.State().Current().Start
		n.mu.Unlock()
		if verdict != core.Wait {
			n.log.Info("the engine comes back", "offset", from.Offset, "verdict", verdict.String())
			switch {
			case verdict == core.Continue:
				return from.Offset, nil
			case mutant.NoFullSync && from.Offset > begins && begins > 0:
				return begins, nil
			}
			return -1, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return -1, ctx.Err()
		}
	}
}

func (s *source) Snapshot(ctx context.Context) (io.ReadCloser, int64, int64, error) {
	n := (*Node)(s)
	for {
		n.mu.Lock()
		index, offset, moved := n.copyAt, n.copied.Copy, n.moved
		n.mu.Unlock()
		if index > 0 {
			file, size, err := n.cons.SnapshotFile(index)
			return file, size, offset, err
		}
		select { // a node that has just joined has none yet
		case <-moved:
		case <-ctx.Done():
			return nil, 0, 0, ctx.Err()
		}
	}
}

// Read gives committed bytes up to the last boundary.
func (s *source) Read(ctx context.Context, after int64, p []byte) (int, error) {
	n := (*Node)(s)
	for {
		n.mu.Lock()
		safe, moved := n.core.State().Safe, n.moved
		gone := after < n.spans.begin
		var first span
		if i, ok := n.spans.at(after); ok && safe > after {
			first = n.spans.all[i]
		}
		n.mu.Unlock()
		switch {
		case gone:
			return 0, repl.ErrGone
		case safe > after:
			k, err := n.readLog(first, after, p[:min(int64(len(p)), safe-after)])
			if k > 0 || err != nil {
				return k, err
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// readLog fills p from the entries that begin with first.
func (n *Node) readLog(first span, after int64, p []byte) (filled int, err error) {
	n.mu.Lock()
	last := n.index
	n.mu.Unlock()
	entries, err := n.cons.Entries(first.index, last+1, int64(len(p))+1)
	if errors.Is(err, consensus.ErrCompacted) {
		return 0, repl.ErrGone
	}
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		n.mu.Lock()
		i, ok := n.spans.at(after + int64(filled))
		var sp span
		if ok {
			sp = n.spans.all[i]
		}
		n.mu.Unlock()
		if !ok || filled == len(p) {
			break
		}
		if sp.index != e.Index {
			continue // not a chunk that counts
		}
		entry, err := core.Decode(e.Data)
		if err != nil {
			return filled, err
		}
		bytes := entry.(core.Chunk).Bytes[after+int64(filled)-sp.from : sp.size]
		filled += copy(p[filled:], bytes)
	}
	return filled, nil
}

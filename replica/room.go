package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"syscall"
	"time"

	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/engine"
)

const (
	// defaultReserve of disk is kept for the log, and as much has to be free beside it for clients to write.
	defaultReserve = 128 << 20
	roomEvery      = 100 * time.Millisecond
	// handOnEvery keeps a node without room from giving leadership away again and again.
	handOnEvery = 5 * time.Second
)

// Disk is how a node's disk stands.
type Disk struct {
	Free        int64   `json:"free"`    // bytes, the reserve apart; -1 where that is not known
	Reserve     int64   `json:"reserve"` // bytes kept for the log; 0 when they were given up
	Low         bool    `json:"low"`     // too little for what clients write
	Without     int     `json:"without"` // voters of whom the same is known
	Refuses     bool    `json:"refuses"` // this node leads, and its engine refuses clients' writes
	Log         int64   `json:"log"`     // bytes of the log's files
	Snapshot    int64   `json:"snapshot"`
	SnapshotAge float64 `json:"snapshot_age"` // seconds
}

// tendRoom looks at the disk. Where there is too little for what clients write, somebody else leads; where
// too few nodes have room, the leader's engine refuses clients' writes. What engines write by
// themselves goes into the log still, so reads go on until the reserve is used up.
func (n *Node) tendRoom() {
	var handedOn time.Time
	for n.ctx.Err() == nil {
		n.lookAtRoom()
		low, refuse := n.judgeRoom()
		if low && n.cons.State().Leads && time.Since(handedOn) > handOnEvery {
			handedOn = time.Now()
			n.handOnForRoom()
			_, refuse = n.judgeRoom()
		}
		n.refuseWrites(refuse)
		n.rest(roomEvery, nil)
	}
}

// lookAtRoom decides whether there is enough. Twice the reserve has to be there for the reserve
// to be taken again, and a quarter more than what is low, so that it does not change all the time.
func (n *Node) lookAtRoom() {
	room := n.cons.Room()
	if room.Reserve == 0 && room.Free > 2*n.cfg.Reserve+n.cfg.Reserve/4 {
		if err := n.cons.Replenish(); err != nil {
			n.log.Warn("the log's reserve cannot be kept", "error", err)
		}
		room = n.cons.Room()
	}
	n.mu.Lock()
	before := n.low
	least := n.cfg.Reserve
	if before {
		least += n.cfg.Reserve / 4
	}
	n.low = room.Reserve == 0 || room.Free < least
	now := n.low
	n.mu.Unlock()
	switch {
	case now && !before:
		n.log.Error("the disk has little room left", "dir", n.cfg.Dir, "free", room.Free, "wanted", n.cfg.Reserve, "reserve", room.Reserve)
	case before && !now:
		n.log.Info("the disk has room again", "dir", n.cfg.Dir, "free", room.Free)
	}
}

// judgeRoom says whether this node has too little, and whether clients may not write: because
// this node leads and has too little, or because fewer than a majority are known to have enough.
func (n *Node) judgeRoom() (low, refuse bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	voters, without, away := 0, 0, 0
	for _, m := range n.members {
		if !m.Voter {
			continue
		}
		voters++
		view, known := n.peers[m.ID]
		switch {
		case m.ID == n.ident.ID && n.low, m.ID != n.ident.ID && view.low && view.fresh():
			without++
		case m.ID != n.ident.ID && known && !view.fresh():
			away++ // whoever does not answer does not bear a part of the log either
		}
	}
	n.without = without
	return n.low, n.low || without > 0 && voters-without-away <= voters/2
}

// handOnForRoom gives leadership to a node that has room, if there is one.
func (n *Node) handOnForRoom() {
	to, ok := n.successor(n.ctx)
	if !ok || n.hasNoRoom(to) {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, stepTime)
	defer cancel()
	if err := n.transfer(ctx, strconv.FormatUint(to, 10), "the disk has little room"); err != nil {
		n.log.Info("leadership could not be handed on", "error", err)
	}
}

func (n *Node) hasNoRoom(id uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	view := n.peers[id]
	return view.low && view.fresh()
}

// refuseWrites has the leading engine refuse, or take, what clients write. It says why in the
// words that it has: there are too few replicas (NOREPLICAS).
func (n *Node) refuseWrites(refuse bool) {
	n.mu.Lock()
	e, leads, is := n.engine, n.session != nil && n.session.opened, n.refuses
	n.mu.Unlock()
	if e == nil || is.engine == e && is.writes == refuse && !is.open || is.engine != e && !refuse || !leads && refuse {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, stepTime)
	defer cancel()
	if err := e.RefuseWrites(ctx, refuse); err != nil {
		n.log.Info("the engine could not be told whether clients may write; it is told again", "error", err)
		n.mu.Lock()
		n.refuses = refusal{e, refuse, true} // a busy engine may do it later
		n.mu.Unlock()
		return
	}
	n.mu.Lock()
	n.refuses = refusal{e, refuse, false}
	without := n.without
	n.mu.Unlock()
	if refuse {
		n.log.Error("clients' writes are refused: too few nodes have room for them on their disks", "without_room", without)
		n.stats.refusals.Inc()
	} else {
		n.log.Info("clients' writes are taken again")
	}
}

// refusal is what an engine was told last.
type refusal struct {
	engine *engine.Engine
	writes bool
	open   bool // whether it did so is not known
}

// errNoRoom: a snapshot would take what the log needs.
var errNoRoom = fmt.Errorf("replica: there is no room for a snapshot: %w", syscall.ENOSPC)

// careful writes as long as there is room for the log beside it.
type careful struct {
	w    io.Writer
	n    *Node
	left int64 // until the disk is looked at again
}

const lookEvery = 4 << 20

func (c *careful) Write(p []byte) (int, error) {
	if c.left -= int64(len(p)); c.left < 0 {
		c.left = lookEvery
		if room := c.n.cons.Room(); room.Free < c.n.cfg.Reserve+lookEvery {
			return 0, errNoRoom
		}
	}
	return c.w.Write(p)
}

// disk is what is said of it.
func (n *Node) disk() Disk {
	room, log := n.cons.Room(), n.cons.LogBytes()
	if room.Free == math.MaxInt64 {
		room.Free = -1
	}
	n.mu.Lock()
	at := n.copyAt
	d := Disk{Free: room.Free, Reserve: room.Reserve, Log: log, Low: n.low, Without: n.without,
		Refuses: n.session != nil && n.refuses.writes && n.refuses.engine == n.engine}
	n.mu.Unlock()
	if size, made, err := n.cons.SnapshotInfo(at); err == nil { // else there is none yet
		d.Snapshot, d.SnapshotAge = size, time.Since(made).Seconds()
	}
	return d
}

// Await waits, after an error that is consensus.ErrFull, until a node may be opened again: there is
// room for the beginning of a log. It tells once in a while what it waits for.
func Await(ctx context.Context, cfg Config, err error) error {
	if !errors.Is(err, consensus.ErrFull) {
		return err
	}
	cfg.defaults()
	cfg.Logger.Error("the node does not serve: the disk is full; it goes on when there is room", "dir", cfg.Dir, "wanted", roomToOpen)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for { // at least once: a disk can be full in other ways than by its bytes
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if consensus.Free(cfg.FS, cfg.Dir) >= roomToOpen {
			return nil
		}
	}
}

// roomToOpen is what opening a log may write.
const roomToOpen = 48 << 20

package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// stall bounds how long a snapshot's connection may stand still.
const stall = 30 * time.Second

// sendSnapshot sends one at a time to a peer, in the background. It returns false when it does not, and nobody
// will say what became of it.
func (p *peer) sendSnapshot(m *pb.Message) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ctx.Err() != nil:
		return false
	case p.snapshot: // whose end is told
		return true
	}
	p.snapshot = true
	p.t.wg.Add(1)
	go func() {
		defer p.t.wg.Done()
		err := p.copySnapshot(m)
		p.mu.Lock()
		p.snapshot = false
		p.mu.Unlock()
		if err != nil {
			p.t.cfg.Logger.Warn("replica: snapshot not sent", "peer", p.addr, "error", err)
		}
		p.t.cfg.SnapshotSent(p.id, err == nil)
	}()
	return true
}

// copySnapshot sends the message, the file's size, the file; one byte comes back when it is
// on the other side's disk.
func (p *peer) copySnapshot(m *pb.Message) (err error) {
	file, size, err := p.t.cfg.OpenSnapshot(m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	c, err := p.t.Dial(p.ctx, p.addr, kindSnapshot)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	w := moving{c}
	if _, err := writeMessage(w, nil, m); err != nil {
		return err
	}
	if _, err := w.Write(binary.BigEndian.AppendUint64(nil, uint64(size))); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(w, io.LimitReader(file, size), make([]byte, 256<<10)); err != nil {
		return err
	}
	_, err = io.ReadFull(w, make([]byte, 1))
	return err
}

func (t *Transport) receiveSnapshot(c *Conn) {
	defer func() { _ = c.Close() }()
	if err := t.takeSnapshot(moving{c}); err != nil {
		t.cfg.Logger.Warn("replica: snapshot not received", "peer", c.Peer, "error", err)
	}
}

func (t *Transport) takeSnapshot(c moving) error {
	m, _, err := readMessage(c, nil)
	if err != nil {
		return err
	}
	if m.GetType() != pb.MsgSnap || m.GetTo() != t.cfg.ID {
		return fmt.Errorf("%w: %v where a snapshot should begin", ErrProtocol, m.GetType())
	}
	var size [8]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	want := int64(binary.BigEndian.Uint64(size[:]))
	if want < 0 {
		return fmt.Errorf("%w: a snapshot of %d bytes", ErrProtocol, want)
	}
	file := &whole{r: c, left: want}
	if err := t.cfg.Snapshot(m, file); err != nil {
		return err
	}
	_, err = c.Write([]byte{1})
	return err
}

// whole ends with an error when the connection does before the file.
type whole struct {
	r    io.Reader
	left int64
}

func (w *whole) Read(p []byte) (int, error) {
	if w.left == 0 {
		return 0, io.EOF
	}
	n, err := w.r.Read(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	if errors.Is(err, io.EOF) && w.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// moving is a connection that fails when it stands still.
type moving struct{ *Conn }

func (m moving) Read(p []byte) (int, error) {
	if err := m.SetReadDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return m.Conn.Read(p)
}

func (m moving) Write(p []byte) (int, error) {
	if err := m.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return m.Conn.Write(p)
}

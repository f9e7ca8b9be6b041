package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// mark remembers beside the log how far the log is known to have come: damage in the log's last
// pieces looks like the torn end of a crash, and would be cut as such. What it says was on disk before
// it was written, so it need not be synced; after a power loss it says too little, never too much.
type mark struct {
	file vfs.File
	last uint64
}

// markSize is an index and its CRC-32C.
const markSize = 12

// openMark returns what was marked, 0 when nothing was.
func openMark(fs vfs.FS, dir string) (m mark, index uint64, err error) {
	m.file, err = fs.OpenReadWrite(fs.PathJoin(dir, "mark"), vfs.WriteCategoryUnspecified)
	if err != nil {
		return m, 0, err
	}
	b := make([]byte, markSize)
	if _, err := m.file.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return m, 0, errors.Join(err, m.file.Close())
	}
	if crc32.Checksum(b[:8], castagnoli) == binary.BigEndian.Uint32(b[8:]) {
		index = binary.BigEndian.Uint64(b)
	}
	return m, index, nil
}

// put marks that the log has come to index. It is a hint: what cannot be written is left.
func (m *mark) put(index uint64) {
	if m.file == nil || index <= m.last {
		return
	}
	b := binary.BigEndian.AppendUint64(nil, index)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := m.file.WriteAt(b, 0); err == nil {
		m.last = index
	}
}

func (m *mark) close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}

// markEvery is so many ticks.
const markEvery = 5

// marker marks how far the log has come. The disk may stand still: nobody waits for it here.
func (n *Node) marker() {
	defer n.wg.Done()
	tick := time.NewTicker(markEvery * n.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			n.mark.put(n.State().Applied)
			return
		case <-tick.C:
			n.mark.put(n.State().Applied) // what is applied is on this node's disk
		}
	}
}

// checkMark compares the log with what was known of it.
func (n *Node) checkMark() (err error) {
	var index uint64
	if n.mark, index, err = openMark(n.cfg.FS, n.cfg.Dir); err != nil {
		return err
	}
	if last, _ := n.disk.LastIndex(); index > last {
		return fmt.Errorf("%w: %s: it ends at entry %d, and had come to %d", ErrDamaged, n.cfg.FS.PathJoin(n.cfg.Dir, "log"), last, index)
	}
	return nil
}

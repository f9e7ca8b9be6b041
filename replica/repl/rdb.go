package repl

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// markSize is the length of the mark that ends an RDB whose length is not known ahead.
const markSize = 40

// receive copies the RDB that follows +FULLRESYNC, in either framing. While the engine waits
// for acknowledgements to go online they are sent, though nothing was consumed yet.
func (a *Attachment) receive(w io.Writer) error {
	head, err := a.line()
	if err != nil {
		return err
	}
	if head[0] == '-' {
		return fmt.Errorf("%w: %s", ErrRefused, head[1:])
	}
	if mark, ok := strings.CutPrefix(head, "$EOF:"); ok && len(mark) == markSize {
		return a.receiveMarked(w, []byte(mark))
	}
	if size, err := strconv.ParseInt(strings.TrimPrefix(head, "$"), 10, 64); head[0] == '$' && err == nil && size >= 0 {
		_, err := io.CopyN(w, a.r, size)
		return err
	}
	return fmt.Errorf("%w: %.64q where an RDB should begin", ErrProtocol, head)
}

// receiveMarked copies up to the mark. The engine sends nothing after it until it has got an
// acknowledgement, so whatever has arrived ends with the mark or goes on with the file.
func (a *Attachment) receiveMarked(w io.Writer, mark []byte) error {
	buf := make([]byte, 64<<10)
	held := 0 // bytes at the beginning of buf that may be a part of the mark
	for {
		n, err := a.r.Read(buf[held:])
		if err != nil {
			return err
		}
		n += held
		if n >= markSize && bytes.Equal(buf[n-markSize:n], mark) {
			_, err := w.Write(buf[:n-markSize])
			return err
		}
		held = min(n, markSize)
		if _, err := w.Write(buf[:n-held]); err != nil {
			return err
		}
		copy(buf, buf[n-held:n])
	}
}

// sendRDB gives an engine a file of a known length.
func (f *Feed) sendRDB(s *session, file io.Reader, size int64) error {
	if err := s.write([]byte("$" + strconv.FormatInt(size, 10) + "\r\n")); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for left := size; left > 0; {
		n, err := io.ReadFull(file, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		if err := s.write(buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// loadTime bounds one write to an engine that is busy with loading what it got.
const loadTime = 10 * time.Minute

package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// protocol is the version of what follows the handshake.
const protocol = 1

// Kinds of connections that are not the caller's.
const (
	kindControl  = "raft-control"
	kindData     = "raft-data"
	kindSnapshot = "raft-snapshot"
)

// hello is what a connection begins with; reply is the answer.
type hello struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	ID      uint64 `json:"id"`
	Kind    string `json:"kind"`
}

type reply struct {
	Code string `json:"code"` // empty: welcome
	Text string `json:"text"`
}

var codes = map[string]error{"cluster": ErrOtherCluster, "version": ErrVersion, "refused": ErrRefused}

func code(err error) string {
	for c, e := range codes {
		if errors.Is(err, e) {
			return c
		}
	}
	return "refused"
}

// Conn is an authenticated connection. CloseWrite (of tls.Conn) ends one direction.
type Conn struct {
	*tls.Conn
	Peer uint64 // who is on the other side, where it was accepted
	Kind string
	t    *Transport

	number uint64 // in which order it was accepted
}

// Close ends the connection at once.
func (c *Conn) Close() error {
	c.t.mu.Lock()
	delete(c.t.conns, c)
	c.t.mu.Unlock()
	return c.NetConn().Close()
}

func (c *Conn) introduce(ctx context.Context, h hello) error {
	if err := c.HandshakeContext(ctx); err != nil {
		if err = explain(err); !errors.Is(err, ErrSecret) {
			err = fmt.Errorf("%w: %w", ErrNoNode, err)
		}
		return err
	}
	if err := writeJSON(c, h); err != nil {
		return explain(err)
	}
	var r reply
	if err := readJSON(c, &r); err != nil {
		return explain(err) // with TLS 1.3 a refused certificate shows here
	}
	if r.Code == "" {
		return nil
	}
	if known := codes[r.Code]; known != nil {
		return fmt.Errorf("%w (it says: %.200s)", known, r.Text)
	}
	return fmt.Errorf("%w: %.200s", ErrRefused, r.Text)
}

func (c *Conn) receiveHello(ctx context.Context) (h hello, err error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return h, explain(err)
	}
	return h, readJSON(c, &h)
}

// explain tells another secret from other troubles.
func explain(err error) error {
	var authority x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	var alert tls.AlertError
	if errors.As(err, &authority) || errors.As(err, &verify) || errors.As(err, &alert) {
		return fmt.Errorf("%w: %w", ErrSecret, err)
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return err
}

// maxHello bounds a hello and its answer.
const maxHello = 4 << 10

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readJSON(r io.Reader, v any) error {
	b, err := readFrame(r, nil, maxHello)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// readFrame reads a length and so many bytes into buf, or into a larger one. Memory for more than
// a message's usual size is taken only as the bytes arrive.
func readFrame(r io.Reader, buf []byte, most uint32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > most {
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrProtocol, n)
	}
	if n <= uint32(cap(buf)) || n <= usualFrame {
		if uint32(cap(buf)) < n {
			buf = make([]byte, n, max(n, min(usualFrame, 2*n)))
		}
		_, err := io.ReadFull(r, buf[:n])
		return buf[:n], err
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// usualFrame is a batch of entries with what is around them; a connection keeps a buffer of that size.
const usualFrame = 1<<20 + 64<<10

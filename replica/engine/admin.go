package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrAnswer: the engine answered with an error, which is quoted.
	ErrAnswer = errors.New("replica: the engine refused")
	// ErrProtocol: the engine's answer makes no sense.
	ErrProtocol = errors.New("replica: the engine's answer makes no sense")
)

// answerTime bounds a command of the node, when its context does not.
const answerTime = 10 * time.Second

// Role is what the engine says of itself.
type Role struct {
	Master bool
	Offset int64  // of its stream; as a replica, what it has consumed, -1 when it has no master
	Link   string // as a replica: connect, connecting, sync, connected
}

// Role asks the engine what it is.
func (e *Engine) Role(ctx context.Context) (Role, error) {
	answer, err := e.Do(ctx, "ROLE")
	if err != nil {
		return Role{}, err
	}
	words, _ := answer.([]any)
	switch {
	case len(words) >= 2 && words[0] == "master":
		if offset, ok := words[1].(int64); ok {
			return Role{Master: true, Offset: offset}, nil
		}
	case len(words) >= 5 && words[0] == "slave":
		link, _ := words[3].(string)
		if offset, ok := words[4].(int64); ok {
			return Role{Offset: offset, Link: link}, nil
		}
	}
	return Role{}, fmt.Errorf("%w: ROLE: %v", ErrProtocol, answer)
}

// Follow makes the engine a replica of the master on that port of this machine.
func (e *Engine) Follow(ctx context.Context, port int, user, password string) error {
	for _, words := range [][]string{
		{"CONFIG", "SET", "masteruser", user, "masterauth", password},
		{"REPLICAOF", "127.0.0.1", strconv.Itoa(port)},
	} {
		if _, err := e.Do(ctx, words...); err != nil {
			return err
		}
	}
	return nil
}

// Promote makes the engine a master; it returns what it calls its history from then on, and
// the offset at which that history begins.
func (e *Engine) Promote(ctx context.Context) (replid string, offset int64, err error) {
	if _, err := e.Do(ctx, "REPLICAOF", "NO", "ONE"); err != nil {
		return "", 0, err
	}
	info, err := e.Info(ctx, "replication")
	if err != nil {
		return "", 0, err
	}
	second, err := strconv.ParseInt(info["second_repl_offset"], 10, 64)
	if info["role"] != "master" || len(info["master_replid"]) != 40 || err != nil {
		return "", 0, fmt.Errorf("%w: INFO replication after REPLICAOF NO ONE", ErrProtocol)
	}
	return info["master_replid"], second - 1, nil
}

// RefuseWrites has a master refuse what clients write, also in scripts and transactions, or take it
// again. It is said as a lack of replicas (NOREPLICAS). Reads, publishes and what the engine does by
// itself, like expiry, go on.
func (e *Engine) RefuseWrites(ctx context.Context, refuse bool) error {
	replicas := wantedReplicas
	if refuse {
		replicas = math.MaxInt32
	}
	_, err := e.Do(ctx, "CONFIG", "SET", "min-replicas-to-write", strconv.Itoa(replicas))
	return err
}

// Digest is the engine's own digest of all it holds.
func (e *Engine) Digest(ctx context.Context) (string, error) {
	answer, err := e.Do(ctx, "DEBUG", "DIGEST")
	digest, ok := answer.(string)
	if err == nil && !ok {
		err = fmt.Errorf("%w: DEBUG DIGEST: %v", ErrProtocol, answer)
	}
	return digest, err
}

// Info is a section of INFO.
func (e *Engine) Info(ctx context.Context, section string) (map[string]string, error) {
	answer, err := e.Do(ctx, "INFO", section)
	if err != nil {
		return nil, err
	}
	text, _ := answer.(string)
	info := map[string]string{}
	for _, line := range strings.Split(text, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// Do runs a command as the node. Its errors are ErrGone (it may have been done), ErrAnswer, ErrProtocol.
func (e *Engine) Do(ctx context.Context, words ...string) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.admin == nil {
		c, err := e.dialAdmin(ctx)
		if err != nil {
			return nil, err
		}
		e.admin = c
	}
	answer, err := e.admin.do(ctx, words...)
	if err != nil && !errors.Is(err, ErrAnswer) {
		_ = e.admin.Close() // err says more
		e.admin = nil
	}
	return answer, err
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

func (e *Engine) dialAdmin(ctx context.Context) (*conn, error) {
	raw, err := e.Client(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, r: bufio.NewReader(raw)}
	if _, err := c.do(ctx, "AUTH", nodeUser, e.secret); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *conn) do(ctx context.Context, words ...string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	free := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer free()
	b := []byte("*" + strconv.Itoa(len(words)) + "\r\n")
	for _, w := range words {
		b = append(b, "$"+strconv.Itoa(len(w))+"\r\n"+w+"\r\n"...)
	}
	if _, err := c.Write(b); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrGone, words[0], err)
	}
	answer, err := c.answer(0)
	if err != nil {
		err = fmt.Errorf("%s: %w", words[0], err)
	}
	if !free() && !errors.Is(err, ErrAnswer) {
		return nil, fmt.Errorf("%w: %w", ErrGone, errors.Join(ctx.Err(), err))
	}
	return answer, err
}

// Bounds of an answer to the node's own commands.
const (
	maxAnswer = 16 << 20
	maxDepth  = 4
)

// answer reads RESP2: strings as string, integers as int64, arrays as []any, null as nil.
func (c *conn) answer(depth int) (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if len(line) < 3 || depth > maxDepth {
		return nil, fmt.Errorf("%w: %.64q", ErrProtocol, line)
	}
	text := line[1 : len(line)-2]
	switch line[0] {
	case '+':
		return text, nil
	case '-':
		return nil, fmt.Errorf("%w: %s", ErrAnswer, text)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || line[0] != ':' && n > maxAnswer {
		return nil, fmt.Errorf("%w: %.64q", ErrProtocol, line)
	}
	switch {
	case line[0] == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case line[0] == '$':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		return string(b[:n]), nil
	case line[0] == '*':
		return c.array(int(n), depth)
	}
	return nil, fmt.Errorf("%w: %.64q", ErrProtocol, line)
}

func (c *conn) array(n, depth int) (any, error) {
	var words []any
	for range n {
		word, err := c.answer(depth + 1)
		if err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}

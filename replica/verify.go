package replica

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dev/holdfast/replica/transport"
)

// Verification is what the engines of all members were found to hold.
type Verification struct {
	Digests map[string]string `json:"digests"`           // by the node's name, all at one offset
	Missing map[string]string `json:"missing,omitempty"` // why a node has no digest, by its name
}

// Verify has a node compare the engines of all: it waits until they are at one offset and
// returns their digests. It holds up each engine while its digest is made. A node that does not
// answer is Missing, and the others are compared.
func (a *Admin) Verify(ctx context.Context, addr string) (Verification, error) {
	got, err := ask(ctx, a.t, addr, request{Do: "verify"})
	return Verification{got.Digests, got.Missing}, err
}

const (
	// verifyTime bounds how long the engines may take to come to one offset.
	verifyTime = 15 * time.Second
	// silentTime is how long a node may not answer, as one does that has just been started, until it is given up.
	silentTime = 3 * time.Second
)

// verifyAll asks every node for its digest until all that answer are at one offset.
func (n *Node) verifyAll(ctx context.Context) (Verification, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	began, silent := time.Now(), map[string]string{}
	for {
		v, offsets, complete := Verification{map[string]string{}, map[string]string{}}, map[int64]bool{}, true
		for _, m := range n.known() {
			if why := silent[m.Name]; why != "" {
				v.Missing[m.Name] = why
				continue
			}
			got, err := n.digestOf(ctx, m)
			switch {
			case err == nil:
				v.Digests[m.Name], offsets[got.Offset] = got.Digest, true
				continue
			case m.ID == n.ident.ID || errors.Is(err, transport.ErrRefused): // it answers, and says why not
				v.Missing[m.Name] = err.Error()
			default:
				v.Missing[m.Name] = "does not answer"
				if time.Since(began) > silentTime {
					silent[m.Name] = v.Missing[m.Name]
					continue
				}
			}
			complete = false
		}
		if complete && len(offsets) == 1 {
			return v, nil
		}
		select {
		case <-ctx.Done():
			if len(offsets) > 1 {
				return Verification{}, errors.New("the engines are at different offsets")
			}
			return v, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (n *Node) digestOf(ctx context.Context, m Member) (answer, error) {
	if m.ID == n.ident.ID {
		return n.answer(ctx, request{Do: "digest"})
	}
	return ask(ctx, n.net, m.Raft, request{Do: "digest"})
}

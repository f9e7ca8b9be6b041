package replica

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// Every node can lead, so one without the clients' password would open the whole cluster. Nodes compare
// their passwords without telling them: what crosses the wire is an HMAC under the nodes' secret.

// ErrPassword: this node's password for clients is not the cluster's.
var ErrPassword = errors.New("replica: another password for clients")

// proof says which password the clients of a node have; none has a proof, too.
func proof(secret []byte, password string) string {
	h := hmac.New(sha256.New, secret)
	_, _ = h.Write([]byte("holdfast clients' password\x00" + password)) // never fails
	return hex.EncodeToString(h.Sum(nil))
}

// samePassword: the node that sent theirs has this node's password for clients.
func (n *Node) samePassword(theirs string) bool {
	return hmac.Equal([]byte(theirs), []byte(proof(n.cfg.Secret, n.cfg.Password)))
}

// checkPassword refuses a node that joins with another password, and says which way it differs.
func (n *Node) checkPassword(theirs string) error {
	switch {
	case n.samePassword(theirs), mutant.AnyPassword:
		return nil
	case n.cfg.Password == "":
		return fmt.Errorf("%w: the clients of this cluster have none, and those of the node that joins have one: start it without --password-file", ErrPassword)
	case theirs == proof(n.cfg.Secret, ""):
		return fmt.Errorf("%w: the clients of this cluster need one, and the node that joins has none: start it with --password-file", ErrPassword)
	}
	return fmt.Errorf("%w: the node that joins has another one than this cluster: start it with the same --password-file", ErrPassword)
}

package replica

import (
	"errors"
	"strings"

	"github.com/holdfast-dev/holdfast/replica/transport"
)

// errTaken: a node cannot join, however often it asks, because another one has its name or address.
var errTaken = errors.New("replica: there is such a node already")

// coded are the errors that are told apart at the other end.
var coded = map[string]error{"password": ErrPassword, "taken": errTaken}

// denial is what another node said instead of doing what it was asked.
type denial struct {
	why  string
	code string
}

func (d *denial) Error() string { return transport.ErrRefused.Error() + ": " + d.why }

func (d *denial) Is(target error) bool {
	return target == transport.ErrRefused || d.code != "" && target == coded[d.code]
}

// deny puts an error into an answer. What yet another node said is passed on as it was.
func (a *answer) deny(err error) {
	if said, ok := errors.AsType[*denial](err); ok {
		a.Error, a.Code = said.why, said.code
		return
	}
	a.Error = strings.TrimPrefix(err.Error(), "replica: ") // who is told puts it before
	for code, is := range coded {
		if errors.Is(err, is) {
			a.Code = code
		}
	}
}

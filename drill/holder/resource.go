package holder

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/lock/guard"
)

// writeTime bounds one write.
const writeTime = 15 * time.Second

// resource is what the names guard, as its writers see it.
type resource struct {
	url  string
	http *http.Client
}

func newResource(url string) *resource {
	return &resource{url, &http.Client{Timeout: writeTime, Transport: &http.Transport{}}}
}

func (r *resource) close() { r.http.CloseIdleConnections() }

// write shows the lease's token with a write: the only check that there is. What was not decided is sent again with the
// same token, which is safe.
func (r *resource) write(to, name string, token int64, owner, text string) (status int, err error) {
	for end := time.Now().Add(writeTime); ; time.Sleep(50 * time.Millisecond) {
		status, err = r.once(to, name, token, owner, text)
		if err == nil && status < 500 || time.Now().After(end) {
			return status, err
		}
	}
}

func (r *resource) once(to, name string, token int64, owner, text string) (status int, err error) {
	req, err := http.NewRequest(http.MethodPost, r.url+"/"+to+"/"+name, strings.NewReader(text))
	if err != nil {
		return 0, err
	}
	req.Header.Set(guard.Header, guard.Fence{Token: token, Owner: owner}.String())
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

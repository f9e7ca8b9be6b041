package server_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/holdfast-dev/holdfast/server"
)

var writeOpenAPI = flag.Bool("write-openapi", false, "write what is served over the file that is checked in")

// The TypeScript client's types are made from a file, so the file has to be what is served. Only
// the version differs from build to build: the file has none.
func TestOpenAPIFileIsWhatIsServed(t *testing.T) {
	const file = "../clients/typescript/openapi.json"
	r := newRig(t, func(c *server.Config) { c.Version = "0.0.0" })
	var served bytes.Buffer
	if err := json.Indent(&served, r.want(200, "GET", "/openapi.json", "", nil).body, "", "  "); err != nil {
		t.Fatal(err)
	}
	text := append(bytes.TrimSpace(served.Bytes()), '\n')
	if *writeOpenAPI {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	checkedIn, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(checkedIn, text) {
		t.Error("clients/typescript/openapi.json is not what the server serves: run scripts/openapi")
	}
}

package server_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/server"
)

// The page is opened in a headless browser, which shows what the API's stream told it.
func TestPageInABrowser(t *testing.T) {
	browser := findBrowser(t)
	r := newRig(t, func(c *server.Config) {
		c.Storm = func(context.Context) (string, error) { return "drop", nil }
	})
	r.sale("drop", 3)
	r.hold("drop", "ada")
	r.acquire("seat <b>14</b>", `{"who":"worker 7","ttl_ms":60000}`)
	waiter := r.later(t.Context(), "seat <b>14</b>", `{"wait_ms":20000,"who":"worker 8"}`)
	r.untilWaiting("seat <b>14</b>", 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+t.TempDir(),
		"--virtual-time-budget=3000", "--dump-dom", r.web.URL+"/")
	cmd.WaitDelay = time.Second
	dom, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"name": "Drop", "free": "2", "held": "1", "sold": "0", "storm": "Send 2,000 buyers"} {
		found := regexp.MustCompile(`id="` + id + `"[^>]*>([^<]*)<`).FindSubmatch(dom)
		if found == nil || string(found[1]) != want {
			t.Errorf("%s: want %q, got %q", id, want, found)
		}
	}
	cells := regexp.MustCompile(`<td>([^<]*)</td>`).FindAllSubmatch(dom, -1)
	var row []string
	for _, c := range cells {
		row = append(row, string(c[1]))
	}
	if len(row) != 7 || row[0] != "seat &lt;b&gt;14&lt;/b&gt;" || row[1] != "worker 7 (local)" || row[2] != "exclusive" || row[6] != "1: worker 8 (local)" {
		t.Errorf("the locks: %q", row)
	}
	r.web.CloseClientConnections()
	<-waiter
}

func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no browser: scripts/deps installs chromium")
	}
	t.Skip("no browser (chromium) on this machine")
	return ""
}

package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func TestTCP(t *testing.T) {
	port := freePort(t)
	server := storetest.Redis(t, "--bind", "127.0.0.1", "--port", port, "--requirepass", "p/w")
	s := open(t, "redis://:p%2Fw@127.0.0.1:"+port+"/2?prefix=a:", store.Options{})
	conform(t, s)
	must(t, s, "{k}", "set", "v", "forever")
	if got := ask(t, server, "p/w", "SELECT 2", "GET a:{k}"); got != "v" {
		t.Errorf("database 2 has %q", got)
	}
	refused(t, "redis://127.0.0.1:"+port, store.ErrConfig, "password")
}

// ask logs in and sends commands on one connection; it returns the last reply's last line.
func ask(t *testing.T, server *storetest.Server, password string, commands ...string) string {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(server.URL(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	all := append([]string{"AUTH " + password}, append(commands, "QUIT")...)
	if _, err := conn.Write([]byte(strings.Join(all, "\r\n") + "\r\n")); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	buf := make([]byte, 1024)
	for n, err := 0, error(nil); err == nil; n, err = conn.Read(buf) {
		b.Write(buf[:n])
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\r\n")
	return lines[len(lines)-2] // before QUIT's
}

// rediss: proves the engine's name by the system's certificates.
func TestTLS(t *testing.T) {
	known, unknown := newCertificate(t, "known"), newCertificate(t, "unknown")
	// Read once in a process; nothing else here uses TLS.
	t.Setenv("SSL_CERT_FILE", known.cert)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	start := func(c certificate) string {
		port := freePort(t)
		storetest.Redis(t, "--bind", "127.0.0.1", "--tls-port", port, "--tls-cert-file", c.cert, "--tls-key-file", c.key,
			"--tls-ca-cert-file", c.cert, "--tls-auth-clients", "no")
		return "rediss://localhost:" + port
	}
	s := open(t, start(known), store.Options{})
	must(t, s, "{k}", "incr", "1")
	if cancel, err := s.Subscribe(t.Context(), "c", func(string) {}); err != nil {
		t.Error(err)
	} else {
		cancel()
	}
	refused(t, start(unknown), store.ErrUnavailable, "certificate")
	t.Run("cluster", func(t *testing.T) { secured(t, storetest.Secured{Cert: known.cert, Key: known.key}.Cluster(t)) })
	t.Run("sentinel", func(t *testing.T) {
		const password = "s/ecret"
		w := storetest.Secured{Cert: known.cert, Key: known.key, SentinelPassword: password}.Sentinel(t)
		refused(t, w.URL(), store.ErrConfig, "NOAUTH")
		refused(t, w.URL()+"?sentinel_password=wrong-secret", store.ErrConfig, "WRONGPASS")
		for _, user := range []string{"", "sentinel_username=default&"} {
			secured(t, several{w, w.URL() + "?" + user + "sentinel_password=" + url.QueryEscape(password)})
		}
	})
	refused(t, "redis://localhost"+strings.TrimPrefix(start(known), "rediss://localhost"), store.ErrUnavailable, "")
}

type several struct {
	*storetest.Watch
	url string
}

func (s several) URL() string { return s.url }

// secured: decisions and subscriptions on several servers that speak TLS alone, also after a
// failover.
func secured(t *testing.T, engines interface{ URL() string }) {
	t.Helper()
	s := open(t, engines.URL(), store.Options{})
	heard := make(chan string, 100)
	cancel, err := s.Subscribe(t.Context(), "news", func(p string) { heard <- p })
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	for i := range 30 { // of every shard
		must(t, s, fmt.Sprintf("{k%d}", i), "incr", "1")
	}
	must(t, s, "{k}", "notify", "x")
	if got := receive(t, heard); got != "x" {
		t.Errorf("heard %q", got)
	}
	switch e := engines.(type) {
	case *storetest.Shards:
		e.Failover(e.Shard(store.Slot("{k1}")))
	case several:
		e.Failover()
	}
	within(t, 10*time.Second, "it decides after the failover", func() bool {
		_, err := do(t, s, "{k1}", "incr", "1")
		return err == nil
	})
	refused(t, "redis"+strings.TrimPrefix(engines.URL(), "rediss"), store.ErrUnavailable, "")
}

type certificate struct{ cert, key string }

func newCertificate(t *testing.T, name string) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")}
	for file, block := range map[string]*pem.Block{c.cert: {Type: "CERTIFICATE", Bytes: cert}, c.key: {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

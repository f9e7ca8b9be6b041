package transport

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// MinSecret is the least length of a secret in bytes. It has to be random: whoever can connect can
// try guesses at home.
const MinSecret = 32

const serverName = "holdfast-node"

// identities makes a node's certificate. All who know the secret derive the same authority from
// it, issue themselves a certificate, and trust no other authority.
func identities(secret []byte, id uint64) (server, client *tls.Config, err error) {
	if len(secret) < MinSecret {
		return nil, nil, fmt.Errorf("replica: the secret has %d bytes; it needs %d", len(secret), MinSecret)
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "holdfast replica authority 1", ed25519.SeedSize)
	if err != nil {
		return nil, nil, err
	}
	authority := ed25519.NewKeyFromSeed(seed)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast cluster"},
		NotBefore: time.Unix(0, 0), NotAfter: forever, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	// Clocks may be wrong, and correctness must not need them: nothing expires.
	leaf := &x509.Certificate{
		SerialNumber: new(big.Int).SetUint64(id), Subject: pkix.Name{CommonName: fmt.Sprintf("node %x", id)},
		NotBefore: time.Unix(0, 0), NotAfter: forever, DNSNames: []string{serverName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	issuer, err := x509.CreateCertificate(rand.Reader, ca, ca, authority.Public(), authority)
	if err != nil {
		return nil, nil, err
	}
	if ca, err = x509.ParseCertificate(issuer); err != nil {
		return nil, nil, err
	}
	issued, err := x509.CreateCertificate(rand.Reader, leaf, ca, public, authority)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	own := []tls.Certificate{{Certificate: [][]byte{issued}, PrivateKey: private}}
	server = &tls.Config{Certificates: own, MinVersion: tls.VersionTLS13, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true}
	client = &tls.Config{Certificates: own, MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: serverName}
	return server, client, nil
}

var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How the workload misbehaves, a line `PORT WORD` each: error (status 500, or 554 of SMTP), slow (an answer after slowness),
// late (an answer after lateness), no-tls (handshakes break).
const misbehaviour = "/run/workload"

// What is answered with status 200; /primary is Patroni's word for the primary of a database.
var paths = []string{"/", "/healthz", "/primary"}

const (
	slowness       = 5 * time.Second
	lateness       = 900 * time.Millisecond
	tlsHandshake   = 0x16
	streamGreeting = "STREAM"
	smtpPort       = "25"
)

// Handshakes without the curves that cost an emulated processor most.
var cheap = []tls.CurveID{tls.X25519}

func serve(ports []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	certificate, err := selfSigned(name)
	if err != nil {
		return err
	}
	broken := make(chan error)
	for _, port := range ports {
		// A socket for each family: IPv4 connections of one for both would have IPv6 addresses on the node.
		for _, family := range []string{"4", "6"} {
			if port, udp := strings.CutSuffix(port, "/udp"); udp {
				address, err := net.ResolveUDPAddr("udp"+family, ":"+port)
				if err != nil {
					return err
				}
				socket, err := net.ListenUDP("udp"+family, address)
				if err != nil {
					return err
				}
				go func() { broken <- reply(socket, name) }()
				continue
			}
			listener, err := net.Listen("tcp"+family, ":"+port)
			if err != nil {
				return err
			}
			go func() {
				for {
					connection, err := listener.Accept()
					if err != nil {
						broken <- err
						return
					}
					if port == smtpPort {
						go greet(connection, name)
					} else {
						go answer(connection, port, name, certificate)
					}
				}
			}()
		}
	}
	return <-broken
}

// reply answers each datagram with the name, and sends it from where the datagram came to: a VIP's client expects the VIP's answer.
func reply(socket *net.UDPConn, name string) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	level, option, size := unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo
	if socket.LocalAddr().(*net.UDPAddr).IP.To4() == nil {
		level, option, size = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.SizeofInet6Pktinfo
	}
	var failure error
	if err := raw.Control(func(fd uintptr) { failure = unix.SetsockoptInt(int(fd), level, option, 1) }); err != nil {
		return err
	}
	if failure != nil {
		return failure
	}
	buffer, where := make([]byte, 1<<10), make([]byte, unix.CmsgSpace(size))
	for {
		_, length, _, from, err := socket.ReadMsgUDP(buffer, where)
		if err != nil {
			return err
		}
		if _, _, err := socket.WriteMsgUDP([]byte(name), where[:length], from); err != nil {
			return err
		}
	}
}

// misbehaves says whether this is how the workload was told to fail on a port.
func misbehaves(port, how string) bool {
	told, _ := os.ReadFile(misbehaviour)
	return slices.Contains(strings.Split(string(told), "\n"), port+" "+how)
}

func answer(connection net.Conn, port, name string, certificate tls.Certificate) {
	defer connection.Close()
	reader := bufio.NewReader(connection)
	first, err := reader.Peek(1)
	if err != nil {
		return
	}
	if first[0] == tlsHandshake {
		if misbehaves(port, "no-tls") {
			return
		}
		secure := tls.Server(peeked{connection, reader}, &tls.Config{Certificates: []tls.Certificate{certificate}, CurvePreferences: cheap})
		connection, reader = secure, bufio.NewReader(secure)
	}
	request, err := reader.ReadString('\n')
	if err != nil {
		return
	}
	if strings.HasPrefix(request, streamGreeting) {
		echo(connection, reader, name)
		return
	}
	for line := ""; strings.TrimSpace(line) != "" || line == ""; {
		if line, err = reader.ReadString('\n'); err != nil {
			return
		}
	}
	if misbehaves(port, "slow") {
		time.Sleep(slowness)
	}
	if misbehaves(port, "late") {
		time.Sleep(lateness)
	}
	status := "200 OK"
	if misbehaves(port, "error") {
		status = "500 Internal Server Error"
	} else if words := strings.Fields(request); len(words) < 2 || !slices.Contains(paths, words[1]) {
		status = "404 Not Found"
	}
	fmt.Fprintf(connection, "HTTP/1.0 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n", status, len(name)+1, name)
}

// greet is as much of a mail server as a check talks to.
func greet(connection net.Conn, name string) {
	defer connection.Close()
	if misbehaves(smtpPort, "error") {
		fmt.Fprint(connection, "554 no mail today\r\n")
		return
	}
	fmt.Fprintf(connection, "220 %s\r\n", name)
	for lines := bufio.NewScanner(connection); lines.Scan(); {
		if strings.EqualFold(lines.Text(), "quit") {
			fmt.Fprint(connection, "221 bye\r\n")
			return
		}
		fmt.Fprintf(connection, "250 %s\r\n", name)
	}
}

func echo(connection net.Conn, reader *bufio.Reader, name string) {
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(connection, "%s %s", name, line); err != nil {
			return
		}
	}
}

// A connection whose first bytes have been looked at.
type peeked struct {
	net.Conn
	reader *bufio.Reader
}

func (p peeked) Read(into []byte) (int, error) { return p.reader.Read(into) }

func selfSigned(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

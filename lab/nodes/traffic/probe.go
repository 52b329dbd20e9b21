package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what to ask. Times are in milliseconds.
type Config struct {
	Requests []Requests `json:"requests"`
	Streams  []Streams  `json:"streams"`
	Holders  Holders    `json:"holders"`
	// Sources are the client's addresses, taken in turn, since affinity sends each to one server; the kernel chooses when there is none of a family.
	Sources []string `json:"sources"`
}

// Requests are new connections at a fixed pace, whatever becomes of those before; each is held open before it asks. Host is whom it asks for by
// HTTP and TLS. With UDP it is one datagram, and one in answer. Patient ones may be sent again as often as it takes: how long they waited is told.
type Requests struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Host    string `json:"host"`
	TLS     bool   `json:"tls"`
	UDP     bool   `json:"udp"`
	Patient bool   `json:"patient"`
	Every   int    `json:"every"`
	Hold    int    `json:"hold"`
}

// Streams are connections that stay, each with a numbered line every so often that must come back once and in order.
type Streams struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Count   int    `json:"count"`
	Every   int    `json:"every"`
}

// Result is everything that was seen. Times are seconds of the machine's clock, which all nodes share.
type Result struct {
	Began    float64         `json:"began"`
	Ended    float64         `json:"ended"`
	Requests []RequestResult `json:"requests"`
	Streams  []StreamResult  `json:"streams"`
	Holders  []Holding       `json:"holders"`
	Tables   []Table         `json:"tables"`
	Delays   []Delay         `json:"delays"`
}

// RequestResult is one request; Error is empty when Server answered it. Connected is 0 when no connection came about.
type RequestResult struct {
	Name      string  `json:"name"`
	At        float64 `json:"at"`
	Connected float64 `json:"connected"`
	Seconds   float64 `json:"seconds"`
	Server    string  `json:"server"`
	Error     string  `json:"error"`
}

// StreamResult is one stream; Error is empty when every line came back once, in order, from one server.
type StreamResult struct {
	Name     string  `json:"name"`
	Server   string  `json:"server"`
	Lines    int     `json:"lines"`
	Longest  float64 `json:"longest"`
	Error    string  `json:"error"`
	FailedAt float64 `json:"failed_at"`
}

// Delay is how long after its time a timer fired: what the machine adds to everything that is timed on it.
type Delay struct {
	At      float64 `json:"at"`
	Seconds float64 `json:"seconds"`
}

// A timer each period; delays below the second one are not told.
const (
	timerPeriod = 10 * time.Millisecond
	delayTold   = 20 * time.Millisecond
)

// The client's ports, below those that a kernel gives out.
const firstPort, ports = 1 << 14, 1 << 14

var (
	errSynSentAgain = errors.New("SYN sent again")
	errSentAgain    = errors.New("sent again and again")
)

// What a request may take. A busy machine is late itself, so what was lost is told by what the kernel sent again: no SYN may be, and of the
// rest a segment that nobody answers for three seconds is sent again after 0.2, 0.6, 1.4 and 3 s.
const (
	patience      = 10 * time.Second
	mostSentAgain = 3
)

// How long the last lines of streams may be on their way when the probe ends.
const lastWords = 2 * time.Second

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func probe(given string) error {
	var config Config
	if err := json.Unmarshal([]byte(given), &config); err != nil {
		return fmt.Errorf("CONFIG: %w", err)
	}
	var (
		over           = make(chan struct{})
		all, attached  sync.WaitGroup
		lock           sync.Mutex
		result         = Result{Requests: []RequestResult{}, Streams: []StreamResult{}, Holders: []Holding{}, Tables: []Table{}, Delays: []Delay{}}
		recordRequest  = func(r RequestResult) { lock.Lock(); result.Requests = append(result.Requests, r); lock.Unlock() }
		recordStream   = func(r StreamResult) { lock.Lock(); result.Streams = append(result.Streams, r); lock.Unlock() }
		recordHoldings = func(h Holding) { lock.Lock(); result.Holders = append(result.Holders, h); lock.Unlock() }
		recordTable    = func(t Table) { lock.Lock(); result.Tables = append(result.Tables, t); lock.Unlock() }
		recordDelay    = func(d Delay) { lock.Lock(); result.Delays = append(result.Delays, d); lock.Unlock() }
	)
	next := sources(config.Sources, perSecond(config))
	all.Add(2)
	go func() { defer all.Done(); delays(over, recordDelay) }()
	go func() { defer all.Done(); watch(config.Holders, over, recordHoldings, recordTable) }()
	for _, kind := range config.Streams {
		for range kind.Count {
			all.Add(1)
			attached.Add(1)
			go func() { defer all.Done(); recordStream(stream(kind, next(kind.Address), over, attached.Done)) }()
		}
	}
	attached.Wait()
	result.Began = seconds(time.Now())
	for _, kind := range config.Requests {
		all.Add(1)
		go func() { defer all.Done(); requests(kind, next, over, recordRequest) }()
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	result.Ended = seconds(time.Now())
	close(over)
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(result)
}

// perSecond is how many connections at most this configuration makes in a second; streams are made once.
func perSecond(config Config) int64 {
	var each float64
	for _, kind := range config.Requests {
		each += 1000 / float64(kind.Every)
	}
	for _, kind := range config.Streams {
		each += float64(kind.Count)
	}
	return int64(math.Ceil(each))
}

// source gives the client's addresses in turn, and each with the port that it had longest ago, also in an earlier run of this program: ports/perSecond
// seconds ago. A kernel that is asked for an address alone draws one of its ports by lot, and now and then one whose last connection a server still
// remembers. perSecond: at most so many are taken.
func source(addresses []string, perSecond int64) func() net.Addr {
	var taken atomic.Int64
	taken.Store(time.Now().UnixMilli() * perSecond / 1000)
	return func() net.Addr {
		if len(addresses) == 0 {
			return nil
		}
		next := int(taken.Add(1))
		return &net.TCPAddr{IP: net.ParseIP(addresses[next%len(addresses)]), Port: firstPort + next/len(addresses)%ports}
	}
}

// sources gives those of an address's family in turn.
func sources(addresses []string, perSecond int64) func(address string) net.Addr {
	var four, six []string
	for _, address := range addresses {
		if isSix(address) {
			six = append(six, address)
		} else {
			four = append(four, address)
		}
	}
	nextFour, nextSix := source(four, perSecond), source(six, perSecond)
	return func(address string) net.Addr {
		if isSix(address) {
			return nextSix()
		}
		return nextFour()
	}
}

// isSix says whether an address, with a port or without one, is of IPv6.
func isSix(address string) bool { return strings.Count(address, ":") > 1 }

func requests(kind Requests, next func(address string) net.Addr, over <-chan struct{}, record func(RequestResult)) {
	var open sync.WaitGroup
	ticker := time.NewTicker(milliseconds(kind.Every))
	defer ticker.Stop()
	for {
		select {
		case <-over:
			open.Wait()
			return
		case <-ticker.C:
			open.Add(1)
			go func() {
				defer open.Done()
				began := time.Now()
				result := RequestResult{Name: kind.Name, At: seconds(began)}
				connected := func() { result.Connected = time.Since(began).Seconds() }
				server, err := ask(kind, next(kind.Address), began, connected)
				result.Seconds, result.Server, result.Error = time.Since(began).Seconds(), server, word(err)
				record(result)
			}()
		}
	}
}

// delays sets one timer after the other and tells how late they fire.
func delays(over <-chan struct{}, record func(Delay)) {
	for {
		began := time.Now()
		select {
		case <-over:
			return
		case <-time.After(timerPeriod):
			if late := time.Since(began) - timerPeriod; late > delayTold {
				record(Delay{At: seconds(began), Seconds: late.Seconds()})
			}
		}
	}
}

func ask(kind Requests, from net.Addr, began time.Time, connected func()) (string, error) {
	if kind.UDP {
		return askByDatagram(kind, from)
	}
	dialer := net.Dialer{Deadline: began.Add(patience), LocalAddr: from}
	connection, err := dialer.Dial("tcp", kind.Address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	connected()
	again, err := sentAgain(connection)
	if err != nil {
		return "", err
	}
	if again > 0 && !kind.Patient {
		return "", errSynSentAgain
	}
	if err := connection.SetDeadline(began.Add(patience)); err != nil {
		return "", err
	}
	plain := connection
	if kind.TLS {
		// The workload's certificate is made when it starts, and proves nothing to anyone.
		connection = tls.Client(connection, &tls.Config{InsecureSkipVerify: true, ServerName: kind.Host, CurvePreferences: cheap})
	}
	time.Sleep(milliseconds(kind.Hold))
	host := ""
	if kind.Host != "" {
		host = "Host: " + kind.Host + "\r\n"
	}
	if _, err := io.WriteString(connection, "GET / HTTP/1.0\r\n"+host+"\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(connection)
	if err != nil {
		return "", err
	}
	if again, err := sentAgain(plain); err != nil {
		return "", err
	} else if again > mostSentAgain && !kind.Patient {
		return "", errSentAgain
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	if !strings.Contains(head, " 200 ") {
		return "", fmt.Errorf("status %.20q", head)
	}
	return strings.TrimSpace(body), nil
}

// askByDatagram has no kernel that sends again: what is lost is a failure, and what is late is not.
func askByDatagram(kind Requests, from net.Addr) (string, error) {
	dialer := net.Dialer{}
	if tcp, given := from.(*net.TCPAddr); given {
		dialer.LocalAddr = &net.UDPAddr{IP: tcp.IP, Port: tcp.Port}
	}
	socket, err := dialer.Dial("udp", kind.Address)
	if err != nil {
		return "", err
	}
	defer socket.Close()
	if err := socket.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(socket, "?"); err != nil {
		return "", err
	}
	answer := make([]byte, 1<<10)
	length, err := socket.Read(answer)
	return string(answer[:length]), err
}

// sentAgain is how many segments the kernel had to send again: that somebody did not get or answer one shows however late this program is.
func sentAgain(connection net.Conn) (uint32, error) {
	raw, err := connection.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var failure error
	if err := raw.Control(func(fd uintptr) { info, failure = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil {
		return 0, err
	}
	if failure != nil {
		return 0, failure
	}
	return info.Total_retrans, nil
}

func stream(kind Streams, from net.Addr, over <-chan struct{}, attached func()) StreamResult {
	result := StreamResult{Name: kind.Name}
	fail := func(err error) StreamResult {
		result.Error, result.FailedAt = word(err), seconds(time.Now())
		return result
	}
	attach := sync.OnceFunc(attached)
	defer attach()
	dialer := net.Dialer{Timeout: lastWords, LocalAddr: from}
	connection, err := dialer.Dial("tcp", kind.Address)
	if err != nil {
		return fail(err)
	}
	defer connection.Close()
	if _, err := fmt.Fprintln(connection, streamGreeting); err != nil {
		return fail(err)
	}
	reader := bufio.NewReader(connection)
	lines := make(chan error)
	last := time.Now()
	go func() {
		defer close(lines)
		for number := 0; ; number++ {
			line, err := reader.ReadString('\n')
			if err == nil {
				result.Longest = max(result.Longest, time.Since(last).Seconds())
				last = time.Now()
				server, echoed, _ := strings.Cut(strings.TrimSpace(line), " ")
				if result.Server == "" {
					result.Server = server
				}
				if server != result.Server || echoed != fmt.Sprint(number) {
					err = fmt.Errorf("wanted line %d of %s, got %q", number, result.Server, strings.TrimSpace(line))
				}
			}
			lines <- err
			if err != nil {
				return
			}
		}
	}()
	go func(over <-chan struct{}) {
		// Not in the loop: it stands still in a write once a server that is gone has acknowledged nothing for long.
		<-over
		_ = connection.SetDeadline(time.Now().Add(lastWords))
	}(over)
	ticker := time.NewTicker(milliseconds(kind.Every))
	defer ticker.Stop()
	for sent, ending := 0, false; !ending || result.Lines < sent; {
		select {
		case err := <-lines:
			if err != nil {
				return fail(err)
			}
			result.Lines++
			attach()
		case <-over:
			over, ending = nil, true
		case <-ticker.C:
			if ending {
				continue
			}
			if _, err := fmt.Fprintln(connection, sent); err != nil {
				return fail(err)
			}
			sent++
		}
	}
	return result
}

// word is an error in the fewest words that tell it from others.
func word(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "unreachable"
	case errors.Is(err, io.EOF):
		return "closed"
	}
	return err.Error()
}

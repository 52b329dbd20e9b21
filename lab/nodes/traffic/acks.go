package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where the fields of a frame are that differ from packet to packet.
const (
	etherHeader  = 14
	identAt      = etherHeader + 4
	sourceLowAt  = etherHeader + 14
	sourcePortAt = etherHeader + 20
	frameLength  = etherHeader + 20 + 20
	firstSource  = 100<<8 | 64
	ackEvery     = time.Millisecond
)

// acks sends TCP packets with ACK alone to a VIP, so many a second, from addresses of 100.64.0.0/16 and ports that nobody has: none of them belongs
// to a connection. It prints how many it sent, and in how many seconds.
func acks(device, vip string, numbers []string) error {
	var port, perSecond, seconds int
	for index, into := range []*int{&port, &perSecond, &seconds} {
		var err error
		if *into, err = strconv.Atoi(numbers[index]); err != nil {
			return err
		}
	}
	lasting := time.Duration(seconds) * time.Second
	interfaceOf, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	holder, err := neighbour(vip, port)
	if err != nil {
		return err
	}
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(wire)
	if err := unix.Bind(wire, &unix.SockaddrLinklayer{Ifindex: interfaceOf.Index}); err != nil {
		return err
	}
	frame := bareAck(interfaceOf.HardwareAddr, holder, net.ParseIP(vip).To4(), uint16(port))
	sent, began := 0, time.Now()
	for elapsed := time.Duration(0); elapsed < lasting; elapsed = time.Since(began) {
		// As many as are due, and not for longer than it may last: a slow machine sends fewer.
		for due := int(elapsed.Seconds() * float64(perSecond)); sent < due && time.Since(began) < lasting; sent++ {
			vary(frame)
			if _, err := unix.Write(wire, frame); err != nil && err != unix.ENOBUFS {
				return err
			}
		}
		time.Sleep(ackEvery)
	}
	fmt.Printf("%d %.1f\n", sent, time.Since(began).Seconds())
	return nil
}

// neighbour is the MAC address that answers for an address.
func neighbour(address string, port int) (net.HardwareAddr, error) {
	if connection, err := net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", address, port), lastWords); err == nil {
		_ = connection.Close()
	}
	table, err := os.ReadFile("/proc/net/arp")
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(table), "\n") {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == address {
			return net.ParseMAC(fields[3])
		}
	}
	return nil, fmt.Errorf("%s is not in /proc/net/arp", address)
}

// bareAck is a frame with such a packet, whose checksum of IP is right for each that `vary` makes of it.
func bareAck(from, to net.HardwareAddr, vip net.IP, port uint16) []byte {
	frame := make([]byte, frameLength)
	copy(frame, to)
	copy(frame[6:], from)
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
	ip, tcp := frame[etherHeader:etherHeader+20], frame[etherHeader+20:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], frameLength-etherHeader)
	binary.BigEndian.PutUint16(ip[12:], firstSource)
	copy(ip[16:], vip)
	binary.BigEndian.PutUint16(tcp[2:], port)
	tcp[12], tcp[13] = 5<<4, 1<<4 // the header's length; ACK
	binary.BigEndian.PutUint16(tcp[14:], 512)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return frame
}

// vary gives the packet another client. The identification makes up for the address, so that the checksum stays.
func vary(frame []byte) {
	random := rand.Uint32()
	low := uint16(random)
	binary.BigEndian.PutUint16(frame[identAt:], 0xffff-low)
	binary.BigEndian.PutUint16(frame[sourceLowAt:], low)
	binary.BigEndian.PutUint16(frame[sourcePortAt:], 1024+uint16(random>>16)%(1<<16-1024))
}

// checksum is that of RFC 1071.
func checksum(data []byte) uint16 {
	var sum uint32
	for index := 0; index < len(data); index += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[index:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

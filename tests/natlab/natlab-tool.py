#!/usr/bin/env python3
"""Small programs that natlab runs inside its namespaces: echo servers, NAT probe, hole punch,
CONNECT proxy, and a home-gateway port-mapping service (NAT-PMP, PCP, UPnP IGD).
Standard library only. Every loop is bounded in time except the servers, which natlab ends."""
import argparse, base64, json, os, re, selectors, socket, struct, subprocess, sys, threading, time

P1, P2, PCTL = 3478, 3479, 3480
PRATE = 8443


# ---------------------------------------------------------------- servers on the relay hosts
def serve(a):
    """UDP: address echo, filter probe, rendezvous. TCP: greets with the address it sees; rates on a port of its own."""
    sel = selectors.DefaultSelector()
    socks = {}
    fam = socket.AF_INET6 if ":" in a.bind else socket.AF_INET
    for port in (P1, P2, PCTL):
        s = socket.socket(fam, socket.SOCK_DGRAM)
        s.bind((a.bind, port))
        socks[port] = s
        sel.register(s, selectors.EVENT_READ, port)
    for port in (443, 8080):
        t = socket.socket(fam, socket.SOCK_STREAM)
        t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        t.bind((a.bind, port))
        t.listen(16)
        sel.register(t, selectors.EVENT_READ, -port)
    rates = socket.create_server((a.bind, PRATE), family=fam)
    threading.Thread(target=serve_rates, args=(rates,), daemon=True).start()
    print("ready", flush=True)
    sessions = {}
    while True:
        for key, _ in sel.select():
            s, port = key.fileobj, key.data
            if port < 0:
                c, peer = s.accept()
                try:
                    c.sendall(f"hello {peer[0]} {peer[1]}\n".encode())
                finally:
                    c.close()
                continue
            msg, peer = s.recvfrom(2048)
            w = msg.decode(errors="replace").split()
            if not w:
                continue
            if w[0] == "map":
                s.sendto(f"map {peer[0]} {peer[1]}".encode(), peer)
            elif w[0] == "echo":
                s.sendto(msg, peer)
            elif w[0] == "otherport":
                socks[P2].sendto(b"hi otherport", peer)
            elif w[0] == "otherip" and a.peer:
                s.sendto(f"poke {peer[0]} {peer[1]}".encode(), (a.peer, PCTL))
            elif w[0] == "poke" and port == PCTL:
                socks[P1].sendto(b"hi otherip", (w[1], int(w[2])))
            elif w[0] == "rdv":
                m = sessions.setdefault(w[1], {})
                m[w[2]] = (peer, w[3], w[4])        # seen address, own address
                if len(m) == 2:
                    (p1, i1, l1), (p2, i2, l2) = m.values()
                    s.sendto(f"peer {p2[0]} {p2[1]} {i2} {l2}".encode(), p1)
                    s.sendto(f"peer {p1[0]} {p1[1]} {i1} {l1}".encode(), p2)


def serve_rates(listening):
    """To who begins with "d" it sends until they hang up; to others it says how fast what they sent came in."""
    def one(c):
        try:
            if c.recv(1) == b"d":
                while True:
                    c.sendall(bytes(65536))
            c.sendall(str(taken_in(c, 60)).encode())
        except OSError:
            pass
        c.close()

    while True:
        threading.Thread(target=one, args=(listening.accept()[0],), daemon=True).start()


def taken_in(c, seconds):
    """Megabits a second that come in until the end, or the time is up; the first second is not counted."""
    begun = now = time.monotonic()
    counted_from, done = None, 0
    while now < begun + seconds:
        got = len(c.recv(262144))
        if not got:
            break
        now, done = time.monotonic(), done + got
        if counted_from is None and now > begun + 1:
            counted_from, done = now, 0
    return round(done * 8 / 1e6 / (now - counted_from), 2) if counted_from and now > counted_from else 0


# ---------------------------------------------------------------- probe
def ask(s, msg, dst, tries=3, wait=0.5):
    for _ in range(tries):
        try:
            s.sendto(msg.encode(), dst)
        except OSError:
            return None
        s.settimeout(wait)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            try:
                d, src = s.recvfrom(2048)
            except OSError:
                break
            if msg == "map" and d.startswith(b"map ") and src[:2] == dst:
                _, ip, port = d.decode().split()
                return [ip, int(port)]
            if msg != "map" and d.startswith(b"hi "):
                return d.decode()
    return None


def tcp(ip, port, timeout=1.5):
    try:
        with socket.create_connection((ip, port), timeout) as c:
            return c.recv(100).decode().startswith("hello")
    except OSError:
        return False


def probe(a):
    """What does the network between here and the relay do to UDP and TCP?"""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", a.port))
    m = [ask(s, "map", d) for d in ((a.relay, P1), (a.relay, P2), (a.relay2, P1))]
    out = {"udp": m[0] is not None, "maps": m}
    if all(m):
        out["mapping"] = "endpoint-independent" if m[0] == m[1] == m[2] else "endpoint-dependent"
        out["nat"] = m[0][0] != local_ip(a.relay)
        out["port_kept"] = m[0][1] == s.getsockname()[1]
        # filtering is asked from a fresh socket, so that relay2 was never contacted from it
        f = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        f.bind(("0.0.0.0", 0))
        ask(f, "map", (a.relay, P1))
        port_ok = ask(f, "otherport", (a.relay, P1), 2) is not None
        ip_ok = ask(f, "otherip", (a.relay, P1), 2) is not None
        out["filtering"] = ("endpoint-independent" if ip_ok else
                            "address-dependent" if port_ok else "address-and-port-dependent")
    out["tcp443"] = tcp(a.relay, 443)
    out["tcp8080"] = tcp(a.relay, 8080)
    print(json.dumps(out))


def local_ip(dst, fam=socket.AF_INET):
    s = socket.socket(fam, socket.SOCK_DGRAM)
    try:
        s.connect((dst, 9))
        return s.getsockname()[0]
    except OSError:
        return None


def punch(a):
    """Classic simultaneous hole punch with a rendezvous server; prints JSON."""
    fam = socket.AF_INET6 if ":" in a.relay else socket.AF_INET
    s = socket.socket(fam, socket.SOCK_DGRAM)
    s.bind(("::" if fam == socket.AF_INET6 else "0.0.0.0", 0))
    end = time.monotonic() + a.seconds + 5
    own = (local_ip(a.relay, fam), s.getsockname()[1])
    peers, got, t0, nxt = [], None, None, 0.0
    while time.monotonic() < end:
        now = time.monotonic()
        if now >= nxt:
            nxt = now + 0.1
            out = [(b"pong", got)] if got else [(b"ping", x) for x in peers]
            for msg, dst in out or [(f"rdv {a.session} {a.name} {own[0]} {own[1]}".encode(), (a.relay, P1))]:
                try:
                    s.sendto(msg, dst)
                except OSError:
                    pass
        if peers and now - t0 > a.seconds:
            break
        s.settimeout(0.05)
        try:
            d, src = s.recvfrom(2048)
        except OSError:
            continue
        if d.startswith(b"peer ") and not peers:
            w = d.decode().split()
            peers, t0 = list(dict.fromkeys([(w[1], int(w[2])), (w[3], int(w[4]))])), time.monotonic()
        elif d in (b"ping", b"pong") and peers:
            got = src[:2]                            # answer where it really came from
            if d == b"pong":
                dt = time.monotonic() - t0
                for _ in range(5):
                    s.sendto(b"pong", got)
                    time.sleep(0.05)
                print(json.dumps({"punched": True, "ms": round(dt * 1000), "via": got}))
                return 0
    print(json.dumps({"punched": False, "rendezvous": bool(peers)}))
    return 1


def hold(a):
    """Opens a mapping, stays silent, then asks whether an inbound packet still arrives."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 0))
    first = ask(s, "map", (a.relay, P1))
    ask(s, "map", (a.relay2, P1))
    time.sleep(a.idle)
    # a second socket asks the server to send to the first one's mapping: only inbound, no outbound
    q = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    q.sendto(f"poke {first[0]} {first[1]}".encode(), (a.relay2, PCTL))
    s.settimeout(1.0)
    try:
        alive = s.recvfrom(100)[0].startswith(b"hi")
    except OSError:
        alive = False
    print(json.dumps({"mapping": first, "idle": a.idle, "alive": alive}))


def echoes(a):
    """Round trips to the relay: median time and loss. Datagrams do not fragment."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, 10, 3)               # IP_MTU_DISCOVER = IP_PMTUDISC_PROBE
    s.settimeout(0.002)
    sent, got = {}, {}

    def take():
        try:
            n = int(s.recv(2048).split()[1])
            got[n] = time.monotonic() - sent[n]
        except OSError:
            pass

    for n in range(a.count):
        sent[n] = time.monotonic()
        try:
            s.sendto(f"echo {n} ".encode().ljust(a.size, b"x"), (a.relay, P1))
        except OSError:
            pass
        take()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        take()
    t = sorted(got.values())
    print(json.dumps({"median_ms": round(t[len(t) // 2] * 1000, 2) if t else None,
                      "loss_pct": round(100 * (1 - len(got) / a.count), 2)}))


def rate(a):
    """Megabits a second over TCP from the relay, or to it."""
    with socket.create_connection((a.relay, PRATE), 3) as c:
        c.sendall(b"u" if a.up else b"d")
        if a.up:
            end = time.monotonic() + a.seconds
            while time.monotonic() < end:
                c.sendall(bytes(16384))
            c.shutdown(socket.SHUT_WR)
            mbit = float(c.recv(100))
        else:
            mbit = taken_in(c, a.seconds)
        print(json.dumps({"mbit": mbit}))


def listen(a):
    """Waits for one datagram on port 4000; exit 0 when it came."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 4000))
    s.settimeout(2)
    try:
        s.recv(100)
    except OSError:
        return 1


def send(a):
    """Sends three datagrams to port 4000 of an address."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(3):
        try:
            s.sendto(b"x", (a.addr, 4000))
        except OSError:
            pass
        time.sleep(0.1)


def proxyget(a):
    """TCP through an HTTP CONNECT proxy."""
    res = {}
    for port in (443, 8080):
        try:
            with socket.create_connection((a.proxy, a.pport), 3) as c:
                auth = ""
                if a.auth:
                    auth = "Proxy-Authorization: Basic " + base64.b64encode(a.auth.encode()).decode() + "\r\n"
                c.sendall(f"CONNECT {a.relay}:{port} HTTP/1.1\r\nHost: {a.relay}:{port}\r\n{auth}\r\n".encode())
                c.settimeout(3)
                d = b""
                while b"hello" not in d:
                    x = c.recv(1000)
                    if not x:
                        break
                    d += x
                res[port] = {"status": d.split(b"\r\n")[0].decode(), "through": b"hello" in d}
        except OSError as e:
            res[port] = {"status": str(e), "through": False}
    print(json.dumps(res))


# ---------------------------------------------------------------- CONNECT proxy
def proxy(a):
    """HTTP CONNECT proxy: port 443 only, optional Basic authentication, one thread per direction."""
    srv = socket.socket()
    srv.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    srv.bind((a.bind, a.port))
    srv.listen(64)
    print("ready", flush=True)

    def pump(x, y):
        try:
            while True:
                d = x.recv(262144)
                if not d:
                    break
                y.sendall(d)
        except OSError:
            pass
        for z in (x, y):
            try:
                z.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def one(c):
        try:
            c.settimeout(10)
            h = b""
            while b"\r\n\r\n" not in h and len(h) < 16384:
                d = c.recv(4096)
                if not d:
                    return c.close()
                h += d
            head, rest = h.split(b"\r\n\r\n", 1)
            lines = head.decode(errors="replace").split("\r\n")
            m = re.match(r"CONNECT \[?([^\s\]]+)\]?:(\d+) HTTP/1\.[01]$", lines[0])
            if not m:
                c.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return c.close()
            if a.auth:
                want = "basic " + base64.b64encode(a.auth.encode()).decode()
                got = [l.split(":", 1)[1].strip() for l in lines[1:] if l.lower().startswith("proxy-authorization:")]
                if not got or got[0][:6].lower() + got[0][6:] != want:
                    c.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                              b"Proxy-Authenticate: Basic realm=\"natlab\"\r\nContent-Length: 0\r\n\r\n")
                    return c.close()
            if m.group(2) != "443":
                c.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return c.close()
            try:
                u = socket.create_connection((m.group(1), 443), 10)
            except OSError:
                c.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return c.close()
            c.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for z in (c, u):
                z.settimeout(None)
                z.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if rest:
                u.sendall(rest)
            threading.Thread(target=pump, args=(u, c), daemon=True).start()
            pump(c, u)
        except OSError:
            c.close()

    while True:
        c, _ = srv.accept()
        threading.Thread(target=one, args=(c,), daemon=True).start()


# ---------------------------------------------------------------- port-mapping gateway
class Gateway:
    """Port mappings of one home router, kept in the nftables map natlab/pm_udp and pm_tcp."""

    def __init__(self, wan_ip):
        self.wan_ip, self.t0, self.maps, self.lock = wan_ip, time.monotonic(), {}, threading.Lock()

    def epoch(self):
        return int(time.monotonic() - self.t0)

    def nft(self, *w):
        subprocess.run(["nft", *w], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def remove(self, proto, ext):
        old = self.maps.pop((proto, ext), None)
        if old:
            self.nft("delete", "element", "ip", "natlab", f"pm_{proto}", "{", str(ext), "}")
            subprocess.run(["conntrack", "-D", "-p", proto, "--orig-port-dst", str(ext)], check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def add(self, proto, ip, inner, ext, life):
        """Returns the external port, 0 for refused. An expired mapping is dropped when asked again."""
        with self.lock:
            now = time.monotonic()
            for k in [k for k, v in self.maps.items() if v[2] < now]:
                self.remove(*k)
            mine = [k for k, v in self.maps.items() if k[0] == proto and v[:2] == (ip, inner)]
            if life == 0:
                for k in mine:
                    self.remove(*k)
                return 0
            if mine:
                k = mine[0]
                self.maps[k] = (ip, inner, now + life)
                return k[1]
            ext = ext or inner
            if ext < 1024:
                ext = 40000 + ext
            while (proto, ext) in self.maps:
                ext = ext + 1 if ext < 65000 else 40000
            self.maps[(proto, ext)] = (ip, inner, now + life)
            self.nft("add", "element", "ip", "natlab", f"pm_{proto}", "{", str(ext), ":", ip, ".", str(inner), "}")
            print(f"map {proto} {ext} -> {ip}:{inner} {life}s", flush=True)
            return ext


def portgw(a):
    gw = Gateway(a.wan)
    protos = a.protocols.split(",")
    if "upnp" in protos:
        threading.Thread(target=upnp_http, args=(a, gw), daemon=True).start()
        threading.Thread(target=ssdp, args=(a,), daemon=True).start()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((a.lan, 5351))
    print("ready", flush=True)
    while True:
        d, src = s.recvfrom(1200)
        if len(d) < 2:
            continue
        if d[0] == 0 and "natpmp" in protos:                                  # NAT-PMP, RFC 6886
            if d[1] == 0:
                s.sendto(struct.pack("!BBHI4s", 0, 128, 0, gw.epoch(), socket.inet_aton(gw.wan_ip)), src)
            elif d[1] in (1, 2) and len(d) >= 12:
                _, _, _, inner, ext, life = struct.unpack("!BBHHHI", d[:12])
                got = gw.add("udp" if d[1] == 1 else "tcp", src[0], inner, ext, min(life, 7200))
                s.sendto(struct.pack("!BBHIHHI", 0, 128 + d[1], 0, gw.epoch(), inner, got, min(life, 7200)), src)
        elif d[0] == 2 and "pcp" in protos and len(d) >= 24:                  # PCP, RFC 6887
            op, life = d[1] & 0x7f, min(struct.unpack("!I", d[4:8])[0], 7200)
            head = lambda code: struct.pack("!BBBBII12x", 2, 0x80 | op, 0, code, life, gw.epoch())
            if op == 0:
                s.sendto(head(0), src)
            elif op == 1 and len(d) >= 60:
                nonce, pr = d[24:36], d[36]
                inner, ext = struct.unpack("!HH", d[40:44])
                got = gw.add("udp" if pr == 17 else "tcp", src[0], inner, ext, life)
                v4 = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(gw.wan_ip)
                s.sendto(head(0) + nonce + struct.pack("!B3xHH", pr, inner, got) + v4, src)
            else:
                s.sendto(head(4), src)
        elif d[0] == 2:                                                       # version not supported
            s.sendto(struct.pack("!BBHI", 0, 128, 1, gw.epoch()), src)


IGD = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
WANIP = "urn:schemas-upnp-org:service:WANIPConnection:1"


def ssdp(a):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", 1900))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                 socket.inet_aton("239.255.255.250") + socket.inet_aton(a.lan))
    while True:
        d, src = s.recvfrom(2048)
        t = d.decode(errors="replace")
        st = re.search(r"(?im)^ST:\s*(\S+)", t)
        if t.startswith("M-SEARCH") and st and (st.group(1) in ("ssdp:all", "upnp:rootdevice", IGD, WANIP)):
            what = IGD if st.group(1) in ("ssdp:all", "upnp:rootdevice") else st.group(1)
            s.sendto((f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {what}\r\n"
                      f"USN: uuid:00000000-0000-4000-8000-00006e61746c::{what}\r\nEXT:\r\n"
                      f"SERVER: natlab UPnP/1.1\r\nLOCATION: http://{a.lan}:5000/desc.xml\r\n\r\n").encode(), src)


def upnp_http(a, gw):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    desc = f"""<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>{IGD}</deviceType><friendlyName>natlab router</friendlyName><manufacturer>natlab</manufacturer><modelName>natlab</modelName><UDN>uuid:00000000-0000-4000-8000-00006e61746c</UDN>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><friendlyName>WANDevice</friendlyName><manufacturer>natlab</manufacturer><modelName>natlab</modelName><UDN>uuid:00000000-0000-4000-8000-00006e61746d</UDN>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><friendlyName>WANConnectionDevice</friendlyName><manufacturer>natlab</manufacturer><modelName>natlab</modelName><UDN>uuid:00000000-0000-4000-8000-00006e61746e</UDN>
<serviceList><service><serviceType>{WANIP}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>/scpd.xml</SCPDURL><controlURL>/ctl</controlURL><eventSubURL>/evt</eventSubURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>"""

    arg = lambda n, d: f"<argument><name>{n}</name><direction>{d}</direction><relatedStateVariable>v_{n}</relatedStateVariable></argument>"
    act = lambda n, i, o: f"<action><name>{n}</name><argumentList>{''.join(arg(x, 'in') for x in i)}{''.join(arg(x, 'out') for x in o)}</argumentList></action>"
    full = ["NewRemoteHost", "NewExternalPort", "NewProtocol", "NewInternalPort", "NewInternalClient",
            "NewEnabled", "NewPortMappingDescription", "NewLeaseDuration"]
    names = sorted(set(full + ["NewExternalIPAddress", "NewConnectionStatus", "NewLastConnectionError", "NewUptime"]))
    kinds = {"NewExternalPort": "ui2", "NewInternalPort": "ui2", "NewEnabled": "boolean",
             "NewLeaseDuration": "ui4", "NewUptime": "ui4"}
    scpd = ("<?xml version=\"1.0\"?><scpd xmlns=\"urn:schemas-upnp-org:service-1-0\"><specVersion><major>1</major><minor>0</minor></specVersion><actionList>"
            + act("GetExternalIPAddress", [], ["NewExternalIPAddress"])
            + act("AddPortMapping", full, []) + act("DeletePortMapping", full[:3], [])
            + act("GetStatusInfo", [], ["NewConnectionStatus", "NewLastConnectionError", "NewUptime"])
            + "</actionList><serviceStateTable>"
            + "".join(f"<stateVariable sendEvents=\"no\"><name>v_{n}</name><dataType>{kinds.get(n, 'string')}</dataType></stateVariable>" for n in names)
            + "</serviceStateTable></scpd>")

    class H(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *w):
            pass

        def out(self, code, body):
            b = body.encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/xml; charset=\"utf-8\"")
            self.send_header("Content-Length", str(len(b)))
            self.end_headers()
            self.wfile.write(b)

        def do_GET(self):
            self.out(200, scpd if self.path == "/scpd.xml" else desc)

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            action = (self.headers.get("SOAPAction") or "").strip('"').split("#")[-1]
            f = lambda n: (re.search(rf"<{n}[^>]*>([^<]*)</{n}>", body) or [0, ""])[1]
            inner = ""
            if action == "GetExternalIPAddress":
                inner = f"<NewExternalIPAddress>{gw.wan_ip}</NewExternalIPAddress>"
            elif action == "AddPortMapping":
                want = int(f("NewExternalPort") or 0)
                proto = f("NewProtocol").lower()
                got = gw.add(proto, f("NewInternalClient"), int(f("NewInternalPort")), want,
                             int(f("NewLeaseDuration") or 0) or 604800)
                if got != want:
                    gw.add(proto, f("NewInternalClient"), int(f("NewInternalPort")), want, 0)
                    return self.fault(718, "ConflictInMappingEntry")
            elif action == "DeletePortMapping":
                with gw.lock:
                    gw.remove(f("NewProtocol").lower(), int(f("NewExternalPort") or 0))
            elif action == "GetStatusInfo":
                inner = (f"<NewConnectionStatus>Connected</NewConnectionStatus><NewLastConnectionError>ERROR_NONE"
                         f"</NewLastConnectionError><NewUptime>{gw.epoch()}</NewUptime>")
            else:
                return self.fault(401, "Invalid Action")
            self.out(200, f"<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action}Response xmlns:u=\"{WANIP}\">{inner}</u:{action}Response></s:Body></s:Envelope>")

        def fault(self, code, text):
            self.out(500, f"<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode><errorDescription>{text}</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>")

    ThreadingHTTPServer((a.lan, 5000), H).serve_forever()


def portmap(a):
    """Asks the gateway for a UDP mapping by each protocol, then has relay2 send to it unasked."""
    out = {}
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 0))
    inner = s.getsockname()[1]

    def inbound(ext):
        q = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        q.sendto(f"poke {ext[0]} {ext[1]}".encode(), (a.relay2, PCTL))
        s.settimeout(1.0)
        try:
            return s.recvfrom(100)[0].startswith(b"hi")
        except OSError:
            return False

    c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    c.settimeout(1.0)
    try:
        c.sendto(b"\0\0", (a.gateway, 5351))
        ip = socket.inet_ntoa(c.recv(100)[8:12])
        c.sendto(struct.pack("!BBHHHI", 0, 1, 0, inner, 0, 60), (a.gateway, 5351))
        r = struct.unpack("!BBHIHHI", c.recv(100)[:16])
        out["natpmp"] = {"external": [ip, r[5]], "inbound": inbound((ip, r[5]))}
        c.sendto(struct.pack("!BBHHHI", 0, 1, 0, inner, 0, 0), (a.gateway, 5351))
        c.recv(100)
        out["natpmp_deleted"] = not inbound((ip, r[5]))
        me = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(local_ip(a.gateway))
        c.sendto(struct.pack("!BBHI", 2, 1, 0, 60) + me + os.urandom(12) + struct.pack("!B3xHH", 17, inner, 0)
                 + b"\0" * 10 + b"\xff\xff" + b"\0" * 4, (a.gateway, 5351))
        d = c.recv(200)
        ext = [socket.inet_ntoa(d[56:60]), struct.unpack("!H", d[42:44])[0]]
        out["pcp"] = {"external": ext, "inbound": inbound(ext)}
    except OSError as e:
        out["error"] = str(e)
    m = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    m.settimeout(1.5)
    try:
        m.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(local_ip(a.gateway)))
        m.sendto(f"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {IGD}\r\n\r\n".encode(),
                 ("239.255.255.250", 1900))
        out["ssdp"] = re.search(r"LOCATION: (\S+)", m.recv(2000).decode()).group(1)
    except (OSError, AttributeError) as e:
        out["ssdp"] = None
    print(json.dumps(out))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    sub = p.add_subparsers(dest="cmd", required=True)

    def cmd(fn, *args):
        q = sub.add_parser(fn.__name__, help=(fn.__doc__ or "").split("\n")[0])
        for n, kw in args:
            q.add_argument(n, **kw)
        q.set_defaults(fn=fn)

    relay = ("--relay", dict(default="203.0.113.10"))
    relay2 = ("--relay2", dict(default="203.0.113.11"))
    cmd(serve, ("--bind", dict(default="0.0.0.0")), ("--peer", dict(default="")))
    cmd(probe, relay, relay2, ("--port", dict(type=int, default=0)))
    cmd(punch, relay, ("session", {}), ("name", {}), ("--seconds", dict(type=float, default=2.5)))
    cmd(hold, relay, relay2, ("--idle", dict(type=float, default=5)))
    cmd(echoes, relay, ("--count", dict(type=int, default=100)), ("--size", dict(type=int, default=64)))
    cmd(rate, relay, ("--up", dict(action="store_true")), ("--seconds", dict(type=float, default=5)))
    cmd(listen)
    cmd(send, ("addr", {}))
    cmd(proxyget, relay, ("--proxy", dict(required=True)), ("--pport", dict(type=int, default=3128)), ("--auth", dict(default="")))
    cmd(proxy, ("--bind", dict(default="0.0.0.0")), ("--port", dict(type=int, default=3128)), ("--auth", dict(default="")))
    cmd(portgw, ("--lan", dict(required=True)), ("--wan", dict(required=True)), ("--protocols", dict(default="natpmp,pcp,upnp")))
    cmd(portmap, relay2, ("--gateway", dict(required=True)))
    a = p.parse_args()
    return a.fn(a)


if __name__ == "__main__":
    sys.exit(main() or 0)

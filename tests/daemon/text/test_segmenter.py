import pickle
import time
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from qwentts_daemon.text.segmenter import CleaningOptions, Segmenter, clean

ALL = CleaningOptions()
NOTHING = CleaningOptions(markdown=False, emoji=False, urls=False, code_blocks=False)


def spoken(fragments, cleaning=ALL, max_chars=400):
    segmenter = Segmenter(cleaning, max_chars)
    done = [segment for fragment in fragments for segment in segmenter.feed(fragment)]
    return done + segmenter.end()


def both_ways(text, cleaning=ALL):
    whole = spoken([text], cleaning)
    assert spoken(text, cleaning) == whole, "character by character"
    return whole


def table(**rows):
    return pytest.mark.parametrize(("text", "expected"), [pytest.param(*row, id=name) for name, row in rows.items()])


# --- sentences -------------------------------------------------------------------------------------------------------


@table(
    english=("Hello there. How are you? Fine! Go", ["Hello there.", "How are you?", "Fine!", "Go"]),
    german=("Es regnet. Über uns? Ja! Österreich", ["Es regnet.", "Über uns?", "Ja!", "Österreich"]),
    french=("Bonjour ! Ça va ? Très bien. Élan", ["Bonjour !", "Ça va ?", "Très bien.", "Élan"]),
    spanish=("¿Qué tal? ¡Muy bien! Vale. ¿Y tú?", ["¿Qué tal?", "¡Muy bien!", "Vale.", "¿Y tú?"]),
    portuguese=("Olá! Tudo bem? É isso.", ["Olá!", "Tudo bem?", "É isso."]),
    italian=("Ciao! È tardi. Andiamo", ["Ciao!", "È tardi.", "Andiamo"]),
    russian=("Привет! Как дела? Хорошо. Да", ["Привет!", "Как дела?", "Хорошо.", "Да"]),
    korean=("안녕하세요. 잘 지내요? 응. 네!", ["안녕하세요.", "잘 지내요?", "응.", "네!"]),
    chinese=("你好。今天怎么样？很好！走吧", ["你好。", "今天怎么样？", "很好！", "走吧"]),
    japanese=("こんにちは。元気ですか？はい！行こう", ["こんにちは。", "元気ですか？", "はい！", "行こう"]),
    arabic=("مرحبا. كيف حالك؟ بخير! نعم", ["مرحبا.", "كيف حالك؟", "بخير!", "نعم"]),
    urdu=("ہیلو۔ کیسے ہو؟ ٹھیک", ["ہیلو۔", "کیسے ہو؟", "ٹھیک"]),
    hindi=("नमस्ते। आप कैसे हैं? ठीक॥ चलो", ["नमस्ते।", "आप कैसे हैं?", "ठीक॥", "चलो"]),
    chinese_latin_marks=("好.走吧!真的?对", ["好.", "走吧!", "真的?", "对"]),
    wide_marks_together=("真的吗？！好……。走", ["真的吗？！", "好……。", "走"]),
    wide_quote=("他说：「好。」然后走了。", ["他说：「好。」", "然后走了。"]),
    wide_quote_two_sentences=("「好。走吧。」他说。", ["「好。", "走吧。", "他说。"]),
    wide_quote_opens_behind=("他走了！“你好。”", ["他走了！", "“你好。”"]),
    wide_ellipsis_goes_on=("我想……还是算了。", ["我想……还是算了。"]),
    closers=('He left. "Why?" (I know.) “Ja.” Ok.', ["He left.", '"Why?"', "(I know.)", "“Ja.”", "Ok."]),
    quote_goes_on=('"What?" she said. "No!" he said.', ['"What?" she said.', '"No!" he said.']),
    german_quotes=("„Ja.“ Er kam. »Nein.« Er ging. »So", ["„Ja.“", "Er kam.", "»Nein.«", "Er ging.", "»So"]),
    french_quotes=("« Oui. » Il part. « Non ? » dit-il.", ["« Oui. »", "Il part.", "« Non ? » dit-il."]),
    ellipsis=("Well... maybe… yes. Hm... Ok… Then", ["Well... maybe… yes.", "Hm...", "Ok…", "Then"]),
    many_marks=("What?! No!!! Yes...? Plan B... Ok", ["What?!", "No!!!", "Yes...?", "Plan B...", "Ok"]),
    question_then_lower=("really? yes! ok", ["really?", "yes!", "ok"]),
    lower_case_goes_on=("It is e.g. this. and that", ["It is e.g. this. and that"]),
    title=("Mr. Smith met Dr. Müller, Prof. Li and Sra. Paz. They left.",
           ["Mr. Smith met Dr. Müller, Prof. Li and Sra. Paz.", "They left."]),
    initials=("J. R. R. Tolkien met А. С. Пушкин. Never.", ["J. R. R. Tolkien met А. С. Пушкин.", "Never."]),
    dotted=("The U.S. Army, a Ph.D. Man, z.B. Wasser. Ok.", ["The U.S. Army, a Ph.D. Man, z.B. Wasser.", "Ok."]),
    dotted_with_blanks=("Das ist z. B. Wasser, d. h. Nass. Gut.", ["Das ist z. B. Wasser, d. h. Nass.", "Gut."]),
    russian_short=("Он из г. Москва, т. е. ул. Ленина. Да.", ["Он из г. Москва, т. е. ул. Ленина.", "Да."]),
    etc_may_end=("Milk, eggs etc. The rest is here.", ["Milk, eggs etc.", "The rest is here."]),
    number_word=("See No. 5 and vol. 3 on p. 12. Then", ["See No. 5 and vol. 3 on p. 12.", "Then"]),
    street=("Es ist Hauptstr. 5 in Köln. Ja.", ["Es ist Hauptstr. 5 in Köln.", "Ja."]),
    no_is_an_answer=("Did he? No. That is wrong.", ["Did he?", "No.", "That is wrong."]),
    money=("It costs $3.50. Or €1.000,50. Cheap.", ["It costs $3.50.", "Or €1.000,50.", "Cheap."]),
    decimal=("It is 3.5 now. Pi is 3.14. Ok.", ["It is 3.5 now.", "Pi is 3.14.", "Ok."]),
    time=("It is 12:30. Wake up at 7.45. Ok.", ["It is 12:30.", "Wake up at 7.45.", "Ok."]),
    address=("Ping 192.168.1.1. Use v1.2.3. Ok.", ["Ping 192.168.1.1.", "Use v1.2.3.", "Ok."]),
    number_ends=("There are 21. The end came in 2024. Ok.", ["There are 21.", "The end came in 2024.", "Ok."]),
    german_date=("Am 3. Mai, am 24. Mai, Montag, 5. Mai. So", ["Am 3. Mai, am 24. Mai, Montag, 5. Mai.", "So"]),
    german_year=("Es ging bis 300. Dann bis 2024. Ende.", ["Es ging bis 300.", "Dann bis 2024.", "Ende."]),
    korean_date=("오늘은 2024. 5. 3. 회의가 있어요. 네", ["오늘은 2024. 5. 3. 회의가 있어요.", "네"]),
    counted_inline=("Steps: 1. Mix it. 2. Bake it.", ["Steps: 1. Mix it.", "2. Bake it."]),
    no_blank=("See example.com or file.Name.txt. Ok", ["See example.com or file.Name.txt.", "Ok"]),
    only_marks=("... !? — * “”", []),
    nothing=("", []),
)  # fmt: skip
def test_segmenter_splits_sentences(text, expected):
    assert both_ways(text) == expected


@table(
    blank_line=("One\n\nTwo\n \nThree", ["One.", "Two.", "Three"]),
    newline_is_a_blank=("One\ntwo\r\nthree\rfour", ["One two three four"]),
    paragraph_separator=("One\u2028two\u2029\u2029three", ["One two.", "three"]),
    list=(
        "Buy:\n- milk\n* eggs\n+ jam\n• tea\n- and\n\nThen",
        ["Buy:", "milk.", "eggs.", "jam.", "tea.", "and.", "Then"],
    ),
    numbers_stay=(
        "Buy\n1. Milk\n2) Eggs. Two\n10. Jam\nok",
        ["Buy.", "1. Milk.", "2) Eggs.", "Two.", "10. Jam.", "ok"],
    ),
    no_list=("-5 is\n+49 too\n–1 and\n2.5\n*x*", ["-5 is.", "+49 too.", "–1 and.", "2.5 x"]),
    heading=("# Title\nText here\n### Next ##\nMore", ["Title.", "Text here.", "Next.", "More"]),
    emoji_list=("🌡️ Warm: 21\n💧 Wet: 45", ["Warm: 21.", "Wet: 45"]),
    dialogue=("— Привет, я тут\n— Да", ["Привет, я тут.", "Да"]),
    after_a_sentence=("One.\nTwo!\nthree", ["One.", "Two!", "three"]),
)
def test_segmenter_splits_lines(text, expected):
    assert both_ways(text) == expected


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("Hello there. Who", "Hello there. W"),
        ("Really? yes", "Really? y"),
        ("**Bold.** *Next*", "**Bold.** *N"),
        ("Sure! 😀 Yes", "Sure! 😀 Y"),
        ("Now.\nHere", "Now.\nH"),
        ("你好。世界", "你好。"),
        ("नमस्ते। आप", "नमस्ते।"),
        ("「好。」他", "「好。」他"),
        ('"好。"他', '"好。"他'),
        ("（好。）【他", "（好。）【他"),
        ("【好。】(他", "【好。】("),
        ("(好。)《他", "(好。)《"),
        ("《好。》『他", "《好。》『"),
        ("『好。』他", "『好。』他"),
        ("好！世界", "好！世"),
        ("Yes. ((((((((((no", "Yes. (((((((("),
        ("Yes\n\nNo", "Yes\n\n"),
        ("- one\n- two", "- one\n"),
        ("# One\nTwo", "# One\n"),
        ("| a | b |\n|", "| a | b |\n"),
    ],
)
def test_segmenter_emits_segment_at_first_character_after_its_end(text, needed):
    segmenter = Segmenter(ALL)
    given = [bool(segmenter.feed(char)) for char in text]
    assert text[: given.index(True) + 1] == needed


# --- markdown --------------------------------------------------------------------------------------------------------


@table(
    emphasis=("*a* **b** ***c*** _d_ __e__ ~~f~~ **g**h", ["a b c d e f gh"]),
    emphasis_over_sentences=("**One is. Two** is *there. Three* is.", ["One is.", "Two is there.", "Three is."]),
    emphasis_around_quotes=("*“Hi”* **“好”**的 **中**文 (*x*)", ["“Hi” “好”的 中文 (x)"]),
    emphasis_nested=("*a *b* c* d, _a b_c d_ e_, *so 5*3 is* ok", ["a b c d, a b_c d e_, so 5*3 is ok"]),
    emphasis_at_digits=("**5**x, **x**5, *y* is 5* now!* ok", ["5x, x5, y is 5* now!* ok"]),
    emphasis_over_paragraphs=("**One ~~is\n\ntwo** three~~ four", ["One is.", "two three four"]),
    ordinary_stars=("5*3, 2 * 3, x**2, 2**3, A* search, a * star", ["5*3, 2 * 3, x**2, 2**3, A* search, a * star"]),
    ordinary_lines=("snake_case, a__b, word_ and ~5", ["snake_case, a__b, word_ and ~5"]),
    stars_do_not_reach_further=("an *open one\n\nis 5* now", ["an open one.", "is 5* now"]),
    code=("Use `a_b *c*` or ``x ` y``, ok", ["Use a_b *c* or x ` y, ok"]),
    code_unclosed=("a ` b *c\n*d* `*e*`", ["a b *c d *e*"]),
    quote=("> One\n> two\n>> three\n>\n> four", ["One two three.", "four"]),
    tasks=("- [ ] a\n- [x] b\n- [y] c", ["a.", "b.", "[y] c"]),
    not_a_task=("[x] marks", ["[x] marks"]),
    link=('See [the *docs*](http://a.b/c_(d) "Title. X"), ok', ["See the docs, ok"]),
    link_in_chinese=("请看[这里](https://a.b)的说明", ["请看这里的说明"]),
    link_without_target=("[text] (no) and [x](two words)", ["[text] (no) and [x](two words)"]),
    link_long=(f"[a](data:image/png;base64,{'A' * 2000}) b", ["a b"]),
    link_long_in_text=(f"[a](x:{'A' * 2000}), ![*b*](x:{'A' * 900} c", ["a, b c"]),
    image=("![A cat](cat.png) and ![](x.png) wow!", ["A cat and wow!"]),
    badge=("[![Build](b.svg)](https://ci.org) ok", ["Build ok"]),
    reference=("[text][ref] and [note][]", ["text and note"]),
    not_a_reference=("m[0][1] [1][2] a[i][j]", ["m[0][1] [1][2] a[i][j]"]),
    definition=('One\n[ref]: https://a.b/c "Title"\n[r]: www.a.b\nTwo', ["One.", "Two"]),
    footnote=("A claim[^1].\n\n[^1]: The proof.", ["A claim.", "The proof."]),
    autolink=("Mail <me@home.org> now", ["Mail me@home.org now"]),
    table=("|A|B|\n|---|:-:|\n| 1 | two. Three |\n||x|", ["A, B.", "1, two.", "Three.", "x"]),
    table_with_marks=("| a: | b, |", ["a: b,"]),
    table_with_emoji=("| a | 😀 | b! | c |", ["a, b!", "c"]),
    table_bare=("A | B\n--- | ---\n1 | 2\n3 | 4", ["A, B.", "1, 2.", "3, 4"]),
    table_of_markers=("| # | - a | 1. b |", ["#, - a, 1. b"]),
    ordinary_pipe=("a|b and a||b", ["a|b and a||b"]),
    rulers=("One\n---\nTwo\n***\nThree\n* * *\nFour\n===\n_ _ _", ["One.", "Two.", "Three.", "Four."]),
    long_ruler=("-" * 70 + "\nOne", ["One"]),
    html=('One<br>two <b>x</b><a href="y. Z">z</a> H<sub>2</sub>O<BR/>end', ["One.", "two xz H2O.", "end"]),
    html_blocks=("<ul><li>a</li><li class='x' >b</li></ul><p>c <em>d</em></p>e", ["a.", "b.", "c d.", "e"]),
    not_html=("a < b, x<y and z>w, <3, List<int>", ["a < b, x<y and z>w, <3, List<int>"]),
    comment=("One <!-- not. This -- --> two", ["One two"]),
    entities=("a&amp;b &eacute;&#33; &#x41;&nbsp;z &lt;b&gt;", ["a&b é!", "A z <b>"]),
    entity_of_an_emoji=("a &#x1F600; b&#8203;c", ["a bc"]),
    not_an_entity=("AT&T; R&D &nope; &copyx; a&b", ["AT&T; R&D &nope; &copyx; a&b"]),
    escapes=(r"\*a\* \# \_b\_ C:\dir 1\. x", [r"*a* # _b_ C:\dir 1. x"]),
    escaped_newline=("a\\\nb", ["a b"]),
    hash_is_no_heading=("#tag is C#\n####### x ##\ny", ["#tag is C#.", "####### x ## y"]),
    heading_with_hashes=("# C# ##\n## #b #\n### F#", ["C#.", "#b.", "F#"]),
    fence=("Do:\n```python\nprint('hi. There')\n\n# no\n```\nDone", ["Do:", "Done"]),
    fence_tilde=("~~~\na\n```\nb\n~~~\nDone", ["Done"]),
    fence_longer=("````\na\n```\nb\n````\nDone", ["Done"]),
    fence_in_list=("- See\n  ```\n  a\n  ```\n- b", ["See.", "b"]),
    fence_in_quote=("> ```\n> a\n> ```\n> b", ["b"]),
    fence_open=("One\n```\na. B", ["One."]),
    fence_on_one_line=("```a``` is code", ["a is code"]),
    tildes_are_no_fence=("~~~ Hello all ~~~\nOne", ["~~~ Hello all ~~~.", "One"]),
)  # fmt: skip
def test_segmenter_removes_markdown(text, expected):
    assert both_ways(text) == expected


def test_segmenter_keeps_markup_when_markdown_is_disabled():
    text = "# A *b* __c__ `d` [e](f) <b>g</b> &amp; \\* ~~h~~ | i"
    assert spoken([text], CleaningOptions(markdown=False)) == [text]
    lines = ["- [x] one", "2. two", "| a | b |", "> three", "[r]: https://a.b"]
    assert spoken(["\n".join(lines)], CleaningOptions(markdown=False, urls=False)) == [
        *(f"{line}." for line in lines[:3]), " ".join(lines[3:]),
    ]  # fmt: skip


def test_segmenter_speaks_code_blocks_on_demand():
    text = "Do:\n```sh\nls *.py_\n  cd ~\n```\n*Ok*"
    assert spoken([text], CleaningOptions(code_blocks=False)) == ["Do:", "ls *.py_.", "cd ~.", "Ok"]
    assert spoken([text], CleaningOptions(markdown=False)) == ["Do:", "*Ok*"]
    assert spoken(["```\na\n```"], NOTHING) == ["``` a."]
    assert spoken([f"```\nsee https://a.b/{'x' * 900} now\n```"], CleaningOptions(code_blocks=False)) == ["see now."]


# --- structure becomes pauses ----------------------------------------------------------------------------------------


@table(
    bullets=("- Hall lamp on\n- Porch lamp off\n- Attic on", ["Hall lamp on.", "Porch lamp off.", "Attic on"]),
    numbers=("1. Milk\n2. Eggs\n3. Bread", ["1. Milk.", "2. Eggs.", "3. Bread"]),
    headings=("# Weather\nSunny all day\n\n# Tomorrow\nRain", ["Weather.", "Sunny all day.", "Tomorrow.", "Rain"]),
    rows=("| Day | High |\n|---|---|\n| Mon | 21 |\n| Tue | 19 |", ["Day, High.", "Mon, 21.", "Tue, 19"]),
    paragraphs=("Good morning\n\nYour first meeting is at nine", ["Good morning.", "Your first meeting is at nine"]),
    lines=("Red\nBlue\nGreen", ["Red.", "Blue.", "Green"]),
    hard_breaks=("**Kitchen:** on  \n**Hall:** off", ["Kitchen: on.", "Hall: off"]),
    marks_are_not_doubled=("- One!\n- Two?\n- Three:\n- Four,\n- Five…\n- Six.\n",
                           ["One!", "Two?", "Three:", "Four,", "Five…", "Six."]),
    quotes_are_closed=('- "Why?"\n- (on)\n- x', ['"Why?"', "(on).", "x"]),
    wrapped_sentence=("It rains in the\nevening, take\nan umbrella.", ["It rains in the evening, take an umbrella."]),
    wrapped_at_a_noun=(
        "Heute Abend um sieben Uhr beginnt im Gemeindesaal die\nProbe.",
        ["Heute Abend um sieben Uhr beginnt im Gemeindesaal die Probe."],
    ),
    chinese=("今天\n\n明天", ["今天。", "明天"]),
    japanese=("- ライト\n- ドア", ["ライト。", "ドア"]),
    hindi=("- दूध\n- अंडे", ["दूध।", "अंडे"]),
    arabic=("- حليب\n- بيض", ["حليب.", "بيض"]),
)  # fmt: skip
def test_segmenter_ends_items_rows_and_paragraphs_with_a_full_stop(text, expected):
    assert both_ways(text) == expected


# --- what is not for listeners ---------------------------------------------------------------------------------------

ANSWER = "The hall light is on."


@pytest.mark.parametrize(
    "text",
    [
        f"<think>\nThe user wants the hall light. I call the tool.\n</think>\n\n{ANSWER}",
        f"<thinking>a < b, List<int> and <b>bold</b></thinking>{ANSWER}", f"<THINK>x</Think> {ANSWER}",
        f"<think>\n\n</think>\n\n{ANSWER}", f'<reasoning effort="low">x\n\n- y</reasoning>\n{ANSWER}',
        f"[THINK]hm[/THINK]{ANSWER}", f"◁think▷hm◁/think▷{ANSWER}", f"<seed:think>x</seed:think>{ANSWER}",
        f"<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|>{ANSWER}<|end_of_solution|>",
        f"<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        f'<|channel|>commentary to=functions.light <|constrain|>json<|message|>{{"on": 1}}<|call|>'
        f"<|start|>assistant<|channel|>final<|message|>{ANSWER}",
        f"<|start|>assistant<|message|>{ANSWER}<|im_end|>", f"<|channel>thought\nx<channel|>{ANSWER}",
        f'<tool_call>\n{{"name": "light"}}\n</tool_call>{ANSWER}', f"<answer>{ANSWER}</answer>",
        f'<function_calls><invoke name="x">y</invoke></function_calls>\n{ANSWER}',
        f'[TOOL_CALLS] [{{"name": "light"}}]\n{ANSWER}', f"<｜tool▁calls▁begin｜>f<｜tool▁calls▁end｜>{ANSWER}",
        f"{ANSWER}<think>and this reply was cut", f"{ANSWER} <tool_call>", f"{ANSWER}<|im_end|>", f"{ANSWER}</s>",
    ],
)  # fmt: skip
def test_segmenter_drops_text_for_machines(text):
    assert both_ways(text) == [ANSWER]
    assert spoken([text[at : at + 3] for at in range(0, len(text), 3)]) == [ANSWER]


def test_segmenter_speaks_the_answer_as_soon_as_the_block_ends():
    segmenter = Segmenter(ALL)
    assert segmenter.feed(f"<think>x</think>{ANSWER} N") == [ANSWER]


@table(
    code=("Write `<think>` or '<think>' first.", ["Write <think> or '<think>' first."]),
    generics=("List<int> and Map<think> stay.", ["List<int> and Map<think> stay."]),
    comparisons=("a < b, <3, x <y, 2<3 and [x] [NO]", ["a < b, <3, x <y, 2<3 and [x] [NO]"]),
    end=("It is <thin", ["It is <thin"]),
)
def test_segmenter_keeps_ordinary_angle_brackets(text, expected):
    assert both_ways(text) == expected


def test_segmenter_speaks_machine_text_on_demand():
    assert spoken(["<think>Hm.</think> Yes."], CleaningOptions(machine_text=False)) == ["<think>Hm.</think> Yes."]


@table(
    host=("It will rain. ([news.example](https://www.news.example/a?utm_source=openai))", ["It will rain."]),
    hosts=("It will rain ([news.example](https://a.b), [sky.example](https://c.d)).", ["It will rain."]),
    number=("It will rain [1](https://news.example/a).", ["It will rain."]),
    numbers=("It will rain [1](https://a.b)[2](https://c.d), I think.", ["It will rain, I think."]),
    lenticular=("It will rain【4:0†source】.", ["It will rain."]),
    words_stay=("[the weather page](https://a.b) says so", ["the weather page says so"]),
    chinese_brackets=("【注意】下雨。", ["【注意】下雨。"]),
    bare=("Open 192.168.1.5:8123/config or homeassistant.local:8123 now.", ["Open or now."]),
    no_addresses=(
        "Version 2.0.1 at 12:30, e.g. 3.5/4.5, and/or U.S./Canada.",
        ["Version 2.0.1 at 12:30, e.g. 3.5/4.5, and/or U.S./Canada."],
    ),
)  # fmt: skip
def test_segmenter_leaves_sources_and_bare_addresses_out(text, expected):
    assert both_ways(text) == expected


def test_segmenter_speaks_sources_on_demand():
    keep = CleaningOptions(sources=False)
    assert spoken(["Rain [1](https://a.b) [news.example](https://a.b)【4:0†source】."], keep) == [
        "Rain 1 news.example4:0†source."
    ]


# --- addresses, emoji, characters ------------------------------------------------------------------------------------


@table(
    plain=("See https://a.b/c?d=e#f now", ["See now"]),
    at_the_end=("See https://a.b/c. Then http://x.y! Ok www.z.org", ["See.", "Then!", "Ok"]),
    brackets=("One (https://a.b) two [www.a.b] three <https://a.b> “https://a.b”", ["One two three"]),
    in_brackets=("One (see https://a.b/c_(d)) two", ["One (see) two"]),
    print_stays=("Call print() and f[]", ["Call print() and f[]"]),
    emphasis=("**https://a.b/c_d** ok *www.x.y*", ["ok"]),
    link_text=("[https://a.b](https://a.b) and [see https://a.b there](https://a.b)", ["and see there"]),
    chinese=("访问https://a.b/c查看，www.x.y。好", ["访问 查看，。", "好"]),
    korean=("주소는 https://a.b에서", ["주소는 에서"]),
    capitals=("See HTTPS://A.B/C and Www.x.y. Ok", ["See and.", "Ok"]),
    long=(f"One https://a.b/{'x' * 900} two `www.a.b/{'x' * 900}` three", ["One two three"]),
    in_a_table=("|https://a.b|x|", ["x"]),
    alone=("https://a.b/c", []),
    email=("Mail me@www.home.org or a.b@c.de", ["Mail me@www.home.org or a.b@c.de"]),
    no_address=("who http: https:// www. shttp://x a.www.b", ["who http: https:// www. shttp://x a.www.b"]),
)
def test_segmenter_removes_addresses(text, expected):
    assert both_ways(text) == expected


def test_segmenter_speaks_addresses_on_demand():
    keep = CleaningOptions(urls=False)
    assert spoken(["See https://a.b/c, [x](https://y.z) or <http://d.e>."], keep) == [
        "See https://a.b/c, x or http://d.e."
    ]
    assert spoken(["See (https://a.b) [x](www.y.z) now"], CleaningOptions(markdown=False)) == ["See [x] now"]


@table(
    simple=("Hi 😀 there 😀😀! Ok 🚀.", ["Hi there!", "Ok."]),
    glued=("One😀two", ["One two"]),
    family=("a 👨‍👩‍👧‍👦 b 🏳️‍🌈 c", ["a b c"]),
    skin=("a 👍🏽 b ✌🏿 c", ["a b c"]),
    flags=("a 🇩🇪🇫🇷 b 🏴󠁧󠁢󠁥󠁮󠁧󠁿 c", ["a b c"]),
    keycaps=("a 1️⃣ b #️⃣ c *⃣ d 1 2# 3* 4\ufe0f5", ["a b c d 1 2# 3* 45"]),
    variation=("❤️ ❤ ☀️ ‼️ ↔️ ℹ️ ok", ["ok"]),
    ordinary_symbols=("© ™ ® → ↔ ℹ ✓ ★ ½ ① a ‼", ["© ™ ® → ↔ ℹ ✓ ★ ½ ① a ‼"]),
    brackets=("Nice (😀) and “🎉” (ok 😀) (😀 ok)", ["Nice and (ok) (ok)"]),
    surrogate_pair=("a \ud83d\ude00 b \ud840\udc00", ["a b 𠀀"]),
    surrogates_alone=("a\ud83d b\ude00c \ud83d\ud83d\ude00 \ude00\ud83d", ["a bc"]),
    half_a_keycap=("a\ud83d\ufe0f\ud83d\u20e3b1\u20dd", ["a\u20e3b1\u20dd"]),
    controls=("a\x00b\x07 c\x1b[0m\u200bd \u202ee\u2066f\ufeff\u00adg", ["ab c[0md efg"]),
    own_mark=("a\ufffcb\ufffd", ["ab"]),
    many_blanks=("a" + " &nbsp;" * 900 + "b", ["a b"]),
    blanks=(" a \t b\u00a0\u00a0c\u3000d  ", ["a b c d"]),
    alone=("😀", []),
)
def test_clean_normalizes_characters(text, expected):
    assert both_ways(text) == expected


def test_clean_keeps_emoji_on_demand():
    assert spoken(["a 😀 1️⃣ ❤️ 👨‍👩‍👧. Ok"], CleaningOptions(emoji=False)) == ["a 😀 1\u20e3 ❤ 👨👩👧.", "Ok"]


def test_segmenter_applies_replacements_last_to_each_segment():
    rules = (
        (regex.compile(r"\bHA\b"), "Home Assistant"),
        (regex.compile("^Home"), "A home"),
        (regex.compile("bye.*"), " "),
    )
    assert spoken(["**HA** is on. Use HA! Bye bye"], CleaningOptions(replacements=rules)) == [
        "A home Assistant is on.", "Use Home Assistant!", "Bye",
    ]  # fmt: skip
    assert spoken(["bye. Ok"], CleaningOptions(replacements=rules)) == ["Ok"]


@table(
    latin=("# Hi\nOne. Two\n- three", "Hi. One. Two. three"),
    chinese=("你好。世界！Ok. 好", "你好。世界！Ok. 好"),
    long=("word " * 1000, "word " * 999 + "word"),
    nothing=("😀 ...", ""),
)
def test_clean_returns_all_segments_as_one_text(text, expected):
    assert clean(text, ALL) == expected


# --- texts without an end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        pytest.param("one and two, three four", 16, ["one and two,", "three four"], id="clause"),
        pytest.param("a, one two three four", 16, ["a, one two three", "four"], id="blank-before-an-early-clause"),
        pytest.param("1,000,000 and 10:30:45 x", 16, ["1,000,000 and", "10:30:45 x"], id="not-within-numbers"),
        pytest.param("你好，世界很大很大", 7, ["你好，世界很大", "很大"], id="characters"),
        pytest.param("今天天气好，我们去公园", 8, ["今天天气好，", "我们去公园"], id="wide-clause"),
        pytest.param("no " + "a" * 12 + " b", 14, ["no", "a" * 12 + " b"], id="early-blank-rather-than-within-a-word"),
        pytest.param("abcdefgh", 3, ["abc", "def", "gh"], id="a-word-that-is-too-long"),
        pytest.param("ae\u0301" * 3, 4, ["ae\u0301a", "e\u0301a", "e\u0301"], id="accents"),
        pytest.param("कक्षकक्षकक्ष", 4, ["कक्ष", "कक्ष", "कक्ष"], id="syllables"),
        pytest.param("कक्षक", 3, ["क", "क्ष", "क"], id="conjuncts"),
        pytest.param("น้ำน้ำน้ำ", 4, ["น้ำ", "น้ำ", "น้ำ"], id="thai"),
        pytest.param("กกำ", 2, ["ก", "กำ"], id="thai-vowel"),
        pytest.param("a" + "\u0301" * 8, 4, ["a\u0301\u0301\u0301"], id="unavoidable"),
        pytest.param("word. and so on", 12, ["word. and so", "on"], id="limit-reached-in-lower-case"),
        pytest.param("one and so, ok.” Cd", 16, ["one and so,", "ok.”", "Cd"], id="sentence-in-the-remainder"),
        pytest.param("abcde。", 5, ["abcde"], id="mark-beyond-the-limit"),
    ],
)
def test_segmenter_cuts_long_sentence_at_clause_or_word(text, limit, expected):
    assert spoken([text], max_chars=limit) == expected


def test_segmenter_does_not_split_grapheme_clusters():
    keep = CleaningOptions(emoji=False)
    assert spoken(["a🇩🇪b🇫🇷"], keep, 2) == ["a", "b"]
    assert spoken(["ab👍🏽c"], keep, 3) == ["ab", "👍🏽c"]
    assert spoken([unicodedata.normalize("NFD", "한글한글")], max_chars=4) == [
        unicodedata.normalize("NFD", syllable) for syllable in "한글한글"
    ]  # fmt: skip


HOSTILE = [
    "a", "word and ", "你", ".", " ", "\n", "*", "`", "#", "[", "[a](", "[a][", "<a ", "<", "&amp", "!",
    "-", "~", "1", "|", "_a", "😀 ", "\u0301", "\ud83d", '"。', "https://a.b/.", "(", "``` ", "Mr. ",
    "[a]: ", "<!--", "> ",
]  # fmt: skip


def held_after(text):
    """Seconds to feed a text in fragments of three characters, and the bytes that are held afterwards."""
    segmenter = Segmenter(ALL)
    started = time.process_time()
    for at in range(0, len(text), 3):
        segmenter.feed(text[at : at + 3])
    return time.process_time() - started, len(pickle.dumps(segmenter))


@pytest.mark.parametrize("unit", HOSTILE)
def test_segmenter_memory_is_bounded_and_time_is_linear(unit):
    short, long = unit * (1_500 // len(unit)), unit * (24_000 // len(unit))
    short_s, short_bytes = min(held_after(short) for _ in range(3))
    long_s, long_bytes = held_after(long)
    assert long_bytes < short_bytes + 3_000
    assert long_s < 16 * 4 * max(short_s, 0.001)


# --- properties ------------------------------------------------------------------------------------------------------

PIECES = [
    "Hello", "h", "w", "W", "é", "你好", "नि", "กำ", "안녕", "\u0301", "Mr.", "z. B. ", "am 3. ",
    "$3.50", "1", "12. ", ". ", ".", "! ", "?", "…", "...", "。", "！", "？", "।", "「", "」", "“", "”",
    '"', "(", ")", "« ", " »", ",", "，", ";", " ", "\n", "\n\n", "\r\n", "\t", "#", "## ", "- ", "* ",
    "1) ", "[x] ", "> ", "|", " | ", "|---|", "---", "===", "*", "**", "_", "__", "~~", "~~~", "`", "``",
    "```", "```py\n", "\\", "\\*", "[", "]", "](", "![", "![a](b)", "[t](u)", "[t][r]", "[^1]", "[^1]:",
    "[a]: https://x", "<", ">", "<b>", "<br>", '<a href="x y">', "<!--", "-->", "&", "&amp;", "http",
    "https://", "www.", "https://a.b/c", "x.y", "@", "😀", "❤️", "👨‍👩‍👧", "👍🏽", "🇩🇪", "1️⃣", "ℹ️",
    "\ufe0f", "\u20e3", "\u200d", "\u200b", "\ud83d", "\ude00", "\ufffc", "\x00",
]  # fmt: skip
anything = st.lists(st.sampled_from(PIECES) | st.characters(codec=None, categories=None), max_size=40).map("".join)
cleanings = st.builds(CleaningOptions, st.booleans(), st.booleans(), st.booleans(), st.booleans())
limits = st.sampled_from([1, 2, 7, 30, 400])


@st.composite
def fragments(draw, texts):
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=400, deadline=None)
@given(fragments(anything), cleanings, limits)
def test_segmenter_result_is_independent_of_fragments(parts, cleaning, limit):
    whole = spoken(["".join(parts)], cleaning, limit)
    assert spoken(parts, cleaning, limit) == whole
    assert spoken("".join(parts), cleaning, limit) == whole


@settings(max_examples=300, deadline=None)
@given(anything, cleanings, limits)
def test_segmenter_emits_only_speakable_segments(text, cleaning, limit):
    segments = spoken([text], cleaning, limit)
    for segment in segments:
        assert any(map(str.isalnum, segment))
        assert len(segment) <= limit
        assert segment == " ".join(segment.encode("utf-8").decode("utf-8").split())
        assert not {unicodedata.category(char) for char in segment} & {"Cc", "Cf", "Cs"}
    assert clean(text, cleaning) == "" or segments


ALPHABETS = [
    "abyzhtp",
    "ABWXÄÉ",
    "ßàñçøœ",
    "бяёЖ",
    "αβΩ",
    "ابت",
    "אבג",
    "कखिा",
    "你好世界",
    "こんニ",
    "한국어",
    "กขา",
    "0123456789",
]
words = st.sampled_from(ALPHABETS).flatmap(lambda alphabet: st.text(alphabet, min_size=1, max_size=6))
BETWEEN = [
    " ", " ", " ", ", ", ". ", ".", "! ", "? ", ": ", "; ", "… ", "。", "，", "！", "\n", "\n\n", " - ",
    "-", " – ", "'", "’", " (", ") ", " [", "] ", ' "', '" ', " „", "“ ", "/", "%", " & ", " < ", " > ",
    "*", " * ", "**", " **", "** ", "_", " _", "__", "~", " ~~", "`", " | ", "|", "=", "+", "@", "#",
    " #", "$", "\\", "^", " 😀 ", "😀", "。」", "\t", "\r\n", "€",
]  # fmt: skip


@st.composite
def ordinary(draw):
    pairs = draw(st.lists(st.tuples(words, st.sampled_from(BETWEEN)), min_size=1, max_size=25))
    return "".join(word + mark for word, mark in pairs)


@settings(max_examples=400, deadline=None)
@given(fragments(ordinary()), cleanings, limits)
def test_segmenter_keeps_every_letter_and_digit(parts, cleaning, limit):
    written = [char for char in "".join(parts) if char.isalnum()]
    assert [char for char in "".join(spoken(parts, cleaning, limit)) if char.isalnum()] == written
    assert [char for char in clean("".join(parts), cleaning) if char.isalnum()] == written

"""The few words by which the simulator guesses what a text is about. A toy: it has to be plausible, not right."""

from __future__ import annotations


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


GOOD = _words(
    """
    amazing awesome beautiful best brilliant comfortable comfy delicious delighted durable easy excellent fantastic fast
    fine flawless friendly glad good gorgeous great handy happy helpful impressed impressive incredible like liked love
    loved lovely loves nice outstanding perfect perfectly pleased quick recommend recommended reliable satisfied smooth
    solid sturdy superb terrific thank thanks tasty top wonderful works worth wow
    ausgezeichnet begeistert bequem beste bestens empfehle empfehlenswert fantastisch freundlich gern gerne gut gute
    guter gutes herrlich hervorragend klasse lecker liebe perfekt prima robust schnell schön schöne spitze super toll
    tolle toller wunderbar zufrieden zuverlässig
    adore agréable aime beau belle bien bon bonne excellente génial géniale heureuse heureux impeccable magnifique
    merci parfait parfaite rapide recommande satisfait satisfaite solide
    bien buen buena bueno cómodo contenta contento encanta encantado excelente fantástico feliz genial gracias gusta
    increíble maravilla maravilloso mejor perfecta perfecto rápido recomiendo resistente satisfecho
    bella bello buona buono comodo consiglio contenta contento eccellente fantastico felice ottima ottimo perfetta
    perfetto soddisfatta soddisfatto splendido
    adorei bom boa ótimo ótima excelente gostei maravilhoso perfeito recomendo rápida
    aanrader blij fijn geweldig goed goede heerlijk lekker mooi prachtig snel tevreden uitstekend
    отлично отличный отличная прекрасно хорошо хороший супер доволен довольна рекомендую люблю
    świetny świetna polecam dobry dobra super
    harika mükemmel güzel iyi memnun memnunum kolay
    joy sharp warm clean survived finally instant reliable easily cozy crispy yum saved dry hit quiet
    empfehlung endlich dicht knusprig leicht leise bequem ordentliches satt
    buenísima bonita fácil finalmente delicato promosso régal triomphe fluffy
    ممتاز جيد رائع أنصح अच्छा बढ़िया खुश पसंद
    """
)

BAD = _words(
    """
    annoyed annoying awful bad bent broke broken breaks cheap complaint crashed crashes crap cracked damaged dead defect
    defective died dirty disappointed disappointing disappointment disgusting error expensive fail failed fails fake
    faulty flimsy garbage hate hated horrible junk late leaked leaking leaks loud mediocre missing nightmare noisy
    overpriced painful peeled poor poorly problem refund regret return returned returning rude ruined scam scratched
    slow smells stains stopped terrible trash uncomfortable unfortunately unhappy unusable useless waste wasted
    weak worse worst wrong
    ärgerlich billig defekt enttäuscht enttäuschend enttäuschung fehler fehlerhaft furchtbar kaputt langsam laut leider
    mangelhaft miserabel schlecht schlechte schlechter schrecklich teuer unbrauchbar ungenießbar wackelig zerbrochen
    cassé cassée cher chère décevant déçu déçue défectueux horrible inutile lent mauvais mauvaise médiocre
    nul nulle panne pire problème
    caro decepción decepcionado decepcionante defectuoso dañado fatal horrible inútil lenta lento mal mala malo peor
    pésimo roto rota terrible
    brutto cattivo deludente deluso delusa difettoso inutile lenta lento orribile pessima pessimo rotto rotta scadente
    caro decepcionado decepcionante horrível péssimo péssima quebrado quebrou ruim pior
    duur kapot langzaam slecht slechte teleurgesteld teleurstellend waardeloos
    брак плохо плохой плохая ужасно ужасный ужас сломался сломалась разочарован разочарована хуже
    zły zła słaby kiepski beznadziejny rozczarowany
    kötü berbat bozuk bozuldu kırıldı
    burned burnt burst cheated crumbles drawback dust dented fell flakes fragile jams lost melted misses rancid ripped
    rust rusted scratchy short slips smell smelled squeak squeaks stuck stinks vanished wobble wobbles wobbly yellow
    gunshot loose lets sagging
    ausfall totalausfall gebrochen gerissen schade stinkt zurückgeschickt umtausch undicht verbrannt
    insupportable lâché plat rien sbagliata manca perde presa devuelto perdido sirve pierde durou perdeu faltando
    usterka szmelc سيئة سيئ انكسر बर्बाद टूट खराब
    """
)

NOT = _words(
    "not no never without cannot nicht kein keine keinen ohne pas jamais sans non nunca jamás sin nessun mai senza "
    "não nem sem niet geen zonder не нет без nie değil"
)

# Looked for anywhere in the text: scripts without spaces between words, and signs.
GOOD_PARTS = (
    *("❤", "😍", "😊", "😋", "👍", "🎉", "💜", "🥰", "☀"),
    *("最高", "素晴らし", "良い", "良かった", "便利", "満足", "おすすめ", "気に入", "美味し", "嬉し", "満点"),
    *("很好", "非常好", "满意", "喜欢", "推荐", "完美", "不错", "好用", "舒服", "좋아", "좋은", "최고", "만족", "추천"),
)
BAD_PARTS = (
    *("😡", "👎", "😠", "🙄", "💔", "😤"),
    *(
        "最悪",
        "悪い",
        "壊れ",
        "がっかり",
        "残念",
        "不良",
        "遅い",
        "遅く",
        "高すぎ",
        "ひどい",
        "うるさい",
        "返品",
        "潰れ",
    ),
    *("很差", "失望", "糟糕", "坏了", "垃圾", "退货", "별로", "최악", "실망", "고장", "나쁘"),
)

# What labels say about feeling, in the languages above.
POLARITY = {
    **dict.fromkeys(["positive", "positiv", "positif", "positivo", "positief", "pos", "good", "ポジティブ", "正面"], 1),
    **dict.fromkeys(["negative", "negativ", "négatif", "negativo", "negatief", "neg", "bad", "ネガティブ", "负面"], -1),
    **dict.fromkeys(["neutral", "neutre", "neutro", "neutraal", "中立", "中性"], 0),
    **dict.fromkeys(["mixed", "gemischt", "mitigé", "mixte", "mixto", "misto", "gemengd"], 2),
}

# First letters of a label, and words that speak for it.
TOPICS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (start, _words(words))
    for start, words in (
        (
            "bill",
            "invoice invoices charged charge charges billed billing payment paid card vat receipt rechnung refund",
        ),
        ("pay", "invoice charged charge payment paid card receipt rechnung"),
        ("refund", "refund refunded refunds money reimbursed erstattung"),
        ("return", "return returned returning exchange send back"),
        ("ship", "parcel package delivery delivered shipping shipped tracking courier arrive arrived paket lieferung"),
        ("deliver", "parcel package delivery delivered shipping shipped tracking courier arrive arrived paket"),
        (
            "tech",
            "crash crashes error errors bug broken freezes timeout api install update screen sync scanner app fehler",
        ),
        ("bug", "crash crashes error errors bug broken freezes wrong fails"),
        ("account", "account password login profile email reset username konto passwort"),
        ("login", "password login sign signin locked 2fa"),
        ("feature", "feature wish add would dark suggestion please support"),
        ("question", "how where when which possible question"),
        ("cancel", "cancel cancelled cancellation unsubscribe kündigen"),
        ("high", "urgent immediately asap down outage production critical deadline today"),
        ("urgent", "urgent immediately asap down outage production critical deadline"),
        ("critical", "outage production critical security breach"),
    )
)
